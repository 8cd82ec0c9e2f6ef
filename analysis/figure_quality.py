"""The main figure: quality versus memory of every trial."""

from typing import TYPE_CHECKING

from analysis.figure_style import (
    AXIS,
    BASELINE_COLOR,
    FRONT,
    GROUPS,
    INFEASIBLE,
    KNEE_COLOR,
    LAYOUT,
    Group,
    add_base_line,
    drawn,
    drawn_loss,
    finite_loss,
    hover_text,
    loss_limits,
    memory_bytes,
    memory_unit,
    most_memory_bytes,
)
from analysis.front import front_members
from analysis.headline import recommended
from analysis.records import Front, TrialRecord
from analysis.text import loss_text
from search.units import format_memory

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

# More markers than this overlap so much that they are drawn smaller and fainter.
_MANY_TRIALS = 120


def quality_memory_figure(front: Front, memory_budget_bytes: int | None = None) -> "Figure":
    """Eval loss against peak memory: the front as a step line, every other trial by its kind, the references.

    Infeasible trials that were never trained lie along the top edge at their predicted memory.
    """
    import plotly.graph_objects as go

    figure = go.Figure()
    scale, unit = memory_unit(front)
    limits = loss_limits(front)
    _add_front_line(figure, front, scale)
    for group in GROUPS:
        _add_group(
            figure, group, drawn(front.trials, group), scale, limits, crowded=len(front.trials) > _MANY_TRIALS
        )
    _add_knee(figure, front, scale)
    _add_references(figure, front, scale)
    _add_budget(figure, front, scale, memory_budget_bytes)
    figure.update_layout(
        **LAYOUT,
        height=520,
        legend={
            "orientation": "h",
            "yanchor": "bottom",
            "y": 1.02,
            "x": 0,
            "itemsizing": "constant",
            "traceorder": "reversed",
        },
        xaxis={**AXIS, "title": f"peak memory per device ({unit})", "rangemode": "normal"},
        yaxis={**AXIS, "title": "eval loss (nats per answer token)", "range": limits},
    )
    return figure


def _add_front_line(figure: "Figure", front: Front, scale: int) -> None:
    """The best loss that each amount of memory buys, up to the most memory in the figure."""
    members = front_members(front)
    if not members:
        return
    figure.add_scatter(
        x=[*((trial.peak_memory_bytes or 0) / scale for trial in members), most_memory_bytes(front) / scale],
        y=[*(trial.eval_loss for trial in members), members[-1].eval_loss],
        mode="lines",
        line={"shape": "hv", "color": FRONT.color, "width": 2},
        hoverinfo="skip",
        showlegend=False,
    )


def _add_group(
    figure: "Figure",
    group: Group,
    trials: list[TrialRecord],
    scale: int,
    limits: tuple[float, float],
    *,
    crowded: bool,
) -> None:
    if not trials:
        return
    is_front = group is FRONT
    error_bars = None
    if is_front or (not crowded and group is not INFEASIBLE):
        error_bars = {
            "array": [trial.eval_loss_stderr or 0.0 for trial in trials],
            "thickness": 1.3 if is_front else 0.7,
            "width": 3 if is_front else 0,
            "color": group.color,
        }
    figure.add_scatter(
        x=[(memory_bytes(trial) or 0) / scale for trial in trials],
        y=[drawn_loss(trial, limits) for trial in trials],
        mode="markers",
        name=group.label,
        error_y=error_bars,
        marker={
            "symbol": group.symbol,
            "color": group.color,
            "size": 12 if is_front else 7 if crowded else 10,
            "opacity": 1.0 if is_front else 0.55 if crowded else 0.9,
            "line": {"width": 1.5, "color": "white" if is_front else group.color},
        },
        hovertext=[hover_text(trial) for trial in trials],
        hoverinfo="text",
    )


def _add_knee(figure: "Figure", front: Front, scale: int) -> None:
    """A ring around the recommended trial."""
    trial = recommended(front)
    if trial is None or trial.peak_memory_bytes is None:
        return
    figure.add_scatter(
        x=[trial.peak_memory_bytes / scale],
        y=[finite_loss(trial)],
        mode="markers",
        name="recommended (knee of the front)",
        marker={"symbol": "circle-open", "size": 23, "color": KNEE_COLOR, "line": {"width": 3.5}},
        hoverinfo="skip",
    )


def _add_references(figure: "Figure", front: Front, scale: int) -> None:
    """Full fine-tuning as a star, the untouched model as a horizontal line."""
    if front.baseline is not None:
        loss, peak = front.baseline.eval_loss, front.baseline.peak_memory_bytes
        figure.add_scatter(
            x=[peak / scale],
            y=[loss],
            mode="markers",
            name="full fine-tuning",
            marker={
                "symbol": "star",
                "size": 19,
                "color": BASELINE_COLOR,
                "line": {"width": 1, "color": "white"},
            },
            hovertext=[f"<b>full fine-tuning</b><br>loss {loss_text(loss)}<br>memory {format_memory(peak)}"],
            hoverinfo="text",
        )
    add_base_line(figure, front)


def _add_budget(figure: "Figure", front: Front, scale: int, memory_budget_bytes: int | None) -> None:
    """The memory budget as a vertical line, unless it is so far off that it would squeeze the trials."""
    if memory_budget_bytes is None or memory_budget_bytes > 1.5 * most_memory_bytes(front):
        return
    figure.add_vline(
        x=memory_budget_bytes / scale,
        line={"dash": "dot", "width": 1.5, "color": INFEASIBLE.color},
        annotation={
            "text": f"memory budget {format_memory(memory_budget_bytes)}",
            "font": {"color": INFEASIBLE.color},
        },
        annotation_position="bottom left",
    )
