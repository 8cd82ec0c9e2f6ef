"""What all figures share: how each kind of trial looks, where it lies, and what its hover text says."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from analysis.records import Front, TrialRecord
from analysis.text import label_of, loss_text, number_text, ordered_config
from search.units import GIB, format_duration, format_memory

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

INK, MUTED, GRID = "#1f2933", "#616e7c", "#e4e7eb"
FONT_FAMILY = "Inter, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"

LAYOUT: dict[str, Any] = {
    "template": "plotly_white",
    "font": {
        "family": FONT_FAMILY,
        "size": 13,
        "color": INK,
    },
    "margin": {"l": 64, "r": 24, "t": 24, "b": 56},
    "hoverlabel": {"bgcolor": "white", "font_size": 13, "align": "left"},
    "paper_bgcolor": "rgba(0,0,0,0)",
    "plot_bgcolor": "rgba(0,0,0,0)",
    "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": "#9aa5b1", "activecolor": INK},
}
AXIS: dict[str, Any] = {"gridcolor": GRID, "zeroline": False, "linecolor": "#9aa5b1", "ticks": "outside"}

# Colours that colour-blind people can tell apart (Okabe and Ito, "Color Universal Design", 2008); the shapes
# differ as well, so that a grey print still reads.
BASE_COLOR, BASELINE_COLOR, KNEE_COLOR = "#616e7c", "#009e73", "#cc79a7"


@dataclass(frozen=True)
class Group:
    """One kind of trial in the figures: legend text, colour, marker for plotly and for matplotlib."""

    key: str
    label: str
    color: str
    symbol: str
    mpl_marker: str


FRONT = Group("front", "on the Pareto front", "#0072b2", "circle", "o")
DOMINATED = Group("dominated", "completed, dominated", "#8d99a6", "square", "s")
STOPPED = Group("stopped", "stopped early (loss at their last rung)", "#e69f00", "triangle-down-open", "v")
RUNNING = Group("running", "still running (loss at their last rung)", "#56b4e9", "diamond-open", "D")
INFEASIBLE = Group("infeasible", "infeasible (at their predicted memory)", "#d55e00", "x-thin-open", "x")
FAILED = Group("failed", "failed", "#000000", "cross-thin-open", "+")
# Drawn in this order, so that the front lies on top.
GROUPS = (INFEASIBLE, STOPPED, RUNNING, DOMINATED, FRONT)


def group_of(trial: TrialRecord) -> Group:
    """The kind of a trial."""
    if trial.status == "completed":
        return FRONT if trial.on_front else DOMINATED
    return {"stopped": STOPPED, "running": RUNNING, "infeasible": INFEASIBLE}.get(trial.status, FAILED)


def memory_bytes(trial: TrialRecord) -> int | None:
    """Where the trial lies on the memory axis: measured if it was, else predicted."""
    return trial.predicted_memory_bytes if trial.peak_memory_bytes is None else trial.peak_memory_bytes


def finite_loss(trial: TrialRecord) -> float | None:
    """The trial's newest loss, None if it has none or it diverged."""
    return trial.eval_loss if trial.eval_loss is not None and math.isfinite(trial.eval_loss) else None


def drawn(trials: Iterable[TrialRecord], group: Group) -> list[TrialRecord]:
    """The trials of a group that have a place in the quality-memory figure."""
    return [
        trial
        for trial in trials
        if group_of(trial) is group
        and memory_bytes(trial) is not None
        and (finite_loss(trial) is not None or group is INFEASIBLE)
    ]


def has_points(front: Front) -> bool:
    """Whether there is anything to draw in the quality-memory figure."""
    return front.baseline is not None or any(drawn(front.trials, group) for group in GROUPS)


def most_memory_bytes(front: Front) -> int:
    """The largest memory of any trial and of the baseline; 0 when nothing is known."""
    sizes = [memory_bytes(trial) or 0 for trial in front.trials]
    return max([*sizes, front.baseline.peak_memory_bytes if front.baseline else 0])


def memory_unit(front: Front) -> tuple[int, str]:
    """Bytes per unit and the unit's name that suit the front's memory axis."""
    return (GIB, "GiB") if most_memory_bytes(front) >= GIB else (2**20, "MiB")


def loss_limits(front: Front) -> tuple[float, float]:
    """The loss axis: the trials' losses with error bars, the untouched model, the baseline, and some air.

    Losses above the untouched model's would squeeze everything else: they lie on the top edge (`drawn_loss`).
    """
    ceiling = front.base.eval_loss if front.base else math.inf
    ends = [reference.eval_loss for reference in (front.base, front.baseline) if reference is not None]
    for trial in front.trials:
        loss = finite_loss(trial)
        if loss is not None and loss <= ceiling:
            ends += [loss - (trial.eval_loss_stderr or 0.0), loss]
    low, high = min(ends, default=0.0), max(ends, default=1.0)
    air = 0.1 * (high - low) or 0.5
    return low - air, high + 1.1 * air


def drawn_loss(trial: TrialRecord, limits: tuple[float, float]) -> float:
    """Where the trial lies on the loss axis; on the top edge without a loss or with one above the axis."""
    low, high = limits
    edge = high - 0.03 * (high - low)
    loss = finite_loss(trial)
    return edge if loss is None else min(loss, edge)


def hover_text(trial: TrialRecord) -> str:
    """Everything about one trial, in the few HTML tags that plotly knows; user text is escaped."""
    lines = [f"<b>{escape(trial.trial_id)}</b>  {trial.status}"]
    lines += [
        f"{escape(label_of(key))}: {escape(number_text(value))}"
        for key, value in ordered_config(trial.config).items()
    ]
    if trial.eval_loss is not None:
        lines.append(f"<b>loss {loss_text(trial.eval_loss, trial.eval_loss_stderr)}</b>")
    if trial.peak_memory_bytes is not None:
        lines.append(
            f"<b>memory {format_memory(trial.peak_memory_bytes)}</b> ({trial.memory_source or 'measured'})"
        )
    elif trial.predicted_memory_bytes is not None:
        lines.append(f"memory {format_memory(trial.predicted_memory_bytes)} (predicted)")
    if trial.examples_seen:
        lines.append(f"{trial.examples_seen} examples in {format_duration(trial.train_seconds)}")
    if trial.error:
        lines.append(escape(trial.error[:160]))
    return "<br>".join(lines)


def add_base_line(figure: "Figure", front: Front) -> None:
    """The untouched model's loss as a dashed horizontal line."""
    if front.base is None:
        return
    figure.add_hline(
        y=front.base.eval_loss,
        line={"dash": "dash", "width": 1.5, "color": BASE_COLOR},
        annotation={"text": f"untouched model {front.base.eval_loss:.2f}", "font": {"color": BASE_COLOR}},
        annotation_position="bottom right",
    )
