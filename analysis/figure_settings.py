"""Which settings matter: importance bars and parallel coordinates."""

import math
import textwrap
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from analysis.figure_style import LAYOUT, MUTED, memory_unit
from analysis.importance import Importance, comparable_losses, searched_dimensions
from analysis.records import Front
from analysis.text import label_of, number_text

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_OBJECTIVE_TITLES = {"eval_loss": "eval loss", "peak_memory_bytes": "peak memory"}
_OBJECTIVE_COLORS = {"eval_loss": "#0072b2", "peak_memory_bytes": "#e69f00"}
# More lines would hide each other, and make the page slow: every so many-th trial is drawn then.
_MOST_LINES = 1000


def importance_figure(importances: Sequence[Importance]) -> "Figure":
    """Bars of each hyperparameter's share of the variance, one panel per objective."""
    from plotly.subplots import make_subplots

    titles = [f"<b>{_OBJECTIVE_TITLES[each.objective]}</b><br>{each.basis}" for each in importances]
    figure = make_subplots(rows=1, cols=len(importances), subplot_titles=titles, horizontal_spacing=0.2)
    for column, each in enumerate(importances, start=1):
        if each.reason is not None:
            figure.add_annotation(
                text=_wrapped(each.reason),
                showarrow=False,
                font_color=MUTED,
                row=1,
                col=column,
                x=0.5,
                y=0.5,
                xref="x domain",
                yref="y domain",
            )
        names = [label_of(name) for name in reversed(each.shares)]
        shares = list(reversed(each.shares.values()))
        figure.add_bar(
            x=shares,
            y=[escape(name) for name in names],
            orientation="h",
            marker_color=_OBJECTIVE_COLORS[each.objective],
            text=[f"{share:.0%}" for share in shares],
            textposition="outside",
            cliponaxis=False,
            hoverinfo="skip",
            row=1,
            col=column,
        )
    rows = max((len(each.shares) for each in importances), default=0)
    figure.update_layout(**LAYOUT, height=150 + 38 * max(rows, 2), showlegend=False, bargap=0.35)
    figure.update_layout(margin={"t": 70, "l": 110, "r": 40, "b": 24})
    figure.update_annotations(font_size=13)
    figure.update_xaxes(visible=False, range=[0, 1.12])
    figure.update_yaxes(ticks="", showgrid=False)
    for column, each in enumerate(importances, start=1):
        figure.update_yaxes(visible=bool(each.shares), row=1, col=column)
    return figure


def parallel_coordinates_figure(front: Front) -> "Figure | None":
    """Every trial as a line through its settings to its loss and memory; None with fewer than two trials.

    Losses are compared at the same amount of training (see `importance.comparable_losses`).
    """
    import plotly.graph_objects as go

    losses, _ = comparable_losses(front.trials)
    trials = [t for t in front.trials if t.trial_id in losses and t.peak_memory_bytes is not None]
    trials = trials[:: -(-len(trials) // _MOST_LINES) or 1]
    dimensions = searched_dimensions(trials)
    if len(trials) < 2 or not dimensions:
        return None
    loss_values = [losses[trial.trial_id] for trial in trials]
    axes = [_axis(label_of(name), values) for name, values in dimensions.items()]
    scale, unit = memory_unit(front)
    axes.append({"label": f"memory ({unit})", "values": [(t.peak_memory_bytes or 0) / scale for t in trials]})
    axes.append({"label": "loss", "values": loss_values})
    figure = go.Figure(
        go.Parcoords(
            dimensions=axes,
            line={
                "color": loss_values,
                "colorscale": "Viridis",
                "showscale": True,
                "colorbar": {"title": {"text": "loss"}, "thickness": 12, "outlinewidth": 0},
            },
            unselected={"line": {"opacity": 0.08}},
            labelfont={"size": 13},
            tickfont={"size": 12},
            rangefont={"size": 1, "color": "rgba(0,0,0,0)"},
        )
    )
    figure.update_layout(**LAYOUT, height=400)
    figure.update_layout(margin={"l": 70, "r": 40, "t": 64, "b": 32})
    return figure


def _axis(label: str, values: list[Any]) -> dict[str, Any]:
    """One vertical axis: few or non-numeric values as evenly spaced steps, many numbers as a scale."""
    numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    distinct = sorted(set(values)) if numeric else sorted({number_text(value) for value in values})
    if numeric and len(distinct) > 8:
        logs = [math.log10(value) if min(values) > 0 else value for value in values]
        ends = [min(logs), (min(logs) + max(logs)) / 2, max(logs)]
        texts = [number_text(float(10**end if min(values) > 0 else end)) for end in ends]
        return {"label": label, "values": logs, "tickvals": ends, "ticktext": texts}
    keys = values if numeric else [number_text(value) for value in values]
    return {
        "label": escape(label),
        "values": [distinct.index(key) for key in keys],
        "tickvals": list(range(len(distinct))),
        "ticktext": [escape(number_text(key)) for key in distinct],
        "range": [-0.15, len(distinct) - 0.85],
    }


def _wrapped(text: str) -> str:
    return "<br>".join(textwrap.wrap(escape(text), 38))
