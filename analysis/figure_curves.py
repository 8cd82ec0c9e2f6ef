"""Learning curves: eval loss by training examples seen."""

from html import escape
from typing import TYPE_CHECKING

from analysis.figure_style import (
    AXIS,
    DOMINATED,
    FRONT,
    LAYOUT,
    RUNNING,
    STOPPED,
    add_base_line,
    group_of,
    hover_text,
    loss_limits,
)
from analysis.front import front_members
from analysis.records import Front, TrialRecord

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

# Viridis (matplotlib, 2015) without its yellow end, which is too pale on white.
_DARKEST, _PALEST = 0.05, 0.75
# More front members than this get one colour and one legend entry.
_MAX_COLORED = 8
# Of trials off the front: more lines would hide each other, and make the page slow.
_MOST_CURVES = 500


def learning_curves_figure(front: Front) -> "Figure":
    """Eval loss by training examples seen, one line a trial; the front's members stand out in colour."""
    import plotly.graph_objects as go

    figure = go.Figure()
    for group in (STOPPED, RUNNING, DOMINATED):
        trials = [trial for trial in front.trials if group_of(trial) is group and trial.rungs]
        if trials:
            shown = trials[:: -(-len(trials) // _MOST_CURVES)]
            _add_curves(figure, shown, group.label.split(" (")[0], group.color, opacity=0.5, width=1.2)
    members = [trial for trial in front_members(front) if trial.rungs]
    if len(members) > _MAX_COLORED:
        _add_curves(figure, members, FRONT.label, FRONT.color, opacity=0.9, width=2.5)
    else:
        for trial, color in zip(members, _viridis(len(members)), strict=True):
            _add_curves(figure, [trial], f"{escape(trial.trial_id)} (front)", color, opacity=1.0, width=2.8)
    add_base_line(figure, front)
    rungs = sorted({rung.examples_seen for trial in front.trials for rung in trial.rungs})
    figure.update_layout(
        **LAYOUT,
        height=440,
        legend={"orientation": "h", "yanchor": "bottom", "y": 1.02, "x": 0},
        xaxis={**AXIS, "title": "training examples seen (log scale)", "type": "log", "tickvals": rungs},
        yaxis={**AXIS, "title": "eval loss (nats per answer token)", "range": loss_limits(front)},
    )
    return figure


def _add_curves(
    figure: "Figure", trials: list[TrialRecord], name: str, color: str, *, opacity: float, width: float
) -> None:
    """All the trials' curves as one trace, with gaps between them: hundreds of traces would be slow."""
    xs: list[float | None] = []
    ys: list[float | None] = []
    texts: list[str] = []
    for trial in trials:
        xs += [*(rung.examples_seen for rung in trial.rungs), None]
        ys += [*(rung.eval_loss for rung in trial.rungs), None]
        texts += [hover_text(trial)] * len(trial.rungs) + [""]
    figure.add_scatter(
        x=xs,
        y=ys,
        name=name,
        mode="lines+markers",
        line={"color": color, "width": width},
        marker={"size": 5 + width},
        opacity=opacity,
        hovertext=texts,
        hoverinfo="text",
    )


def _viridis(count: int) -> list[str]:
    from plotly.colors import sample_colorscale

    step = (_PALEST - _DARKEST) / max(count - 1, 1)
    return list(sample_colorscale("Viridis", [_DARKEST + step * index for index in range(count)]))
