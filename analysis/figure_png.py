"""`front.png`: quality versus memory as a still picture, made without a browser."""

import io
from pathlib import Path
from typing import TYPE_CHECKING

from analysis.figure_style import (
    BASE_COLOR,
    BASELINE_COLOR,
    FRONT,
    GRID,
    GROUPS,
    INFEASIBLE,
    INK,
    KNEE_COLOR,
    MUTED,
    Group,
    drawn,
    drawn_loss,
    has_points,
    loss_limits,
    memory_bytes,
    memory_unit,
)
from analysis.files import write_atomically
from analysis.front import front_members
from analysis.headline import recommended
from analysis.records import Front, TrialRecord
from analysis.text import config_summary, loss_text
from search.units import format_memory

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SIZE_INCHES, _DPI = (9.0, 5.4), 160
_KNEE_INK = "#a8478a"  # the knee's colour, dark enough for text
_FONTS = ["Inter", "Helvetica Neue", "Arial", "Liberation Sans", "DejaVu Sans"]


def write_front_png(front: Front, path: Path) -> None:
    """Draw the front and write it atomically.

    Raises:
        OSError: the folder cannot be written to.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    style = {"font.family": "sans-serif", "font.sans-serif": _FONTS, "font.size": 11, "text.color": INK}
    with mpl.rc_context(style):
        figure = Figure(figsize=_SIZE_INCHES, dpi=_DPI, layout="constrained", facecolor="white")
        canvas = FigureCanvasAgg(figure)
        _draw(figure.add_subplot(), front)
        buffer = io.BytesIO()
        canvas.print_png(buffer)
    write_atomically(path, buffer.getvalue())


def _draw(axes: "Axes", front: Front) -> None:
    scale, unit = memory_unit(front)
    limits = loss_limits(front)
    best = recommended(front)
    _dress(axes, front, best, unit)
    for group in GROUPS:
        _draw_group(axes, group, drawn(front.trials, group), scale, limits)
    _draw_baseline(axes, front, scale)
    if not has_points(front):
        axes.text(0.5, 0.5, "no trial has a result yet", transform=axes.transAxes, ha="center", color=MUTED)
        axes.set(xticks=[], yticks=[])
        return
    axes.margins(x=0.09)
    axes.set(xlim=axes.get_xlim(), ylim=limits)
    _draw_staircase(axes, front_members(front), scale)
    _draw_base(axes, front)
    if best is not None:
        _draw_knee(axes, best, scale)
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(
        handles[::-1],
        labels[::-1],
        loc="upper left",
        bbox_to_anchor=(-0.01, -0.13),
        ncols=2,
        frameon=False,
        fontsize=9.5,
    )


def _dress(axes: "Axes", front: Front, best: TrialRecord | None, unit: str) -> None:
    """Title with the recommended config under it, axis labels, light grid."""
    axes.set_title(
        f"Quality versus memory: {front.name}\n", loc="left", fontsize=14, fontweight="bold", pad=10
    )
    if best is not None:
        loss, memory = (
            loss_text(best.eval_loss, best.eval_loss_stderr),
            format_memory(best.peak_memory_bytes or 0),
        )
        subtitle = f"Recommended: {config_summary(best.config)}  →  loss {loss}, {memory}"
        axes.annotate(
            subtitle,
            (0, 1),
            xycoords="axes fraction",
            xytext=(0, 12),
            textcoords="offset points",
            color=_KNEE_INK,
        )
    axes.set_xlabel(f"peak memory per device ({unit})", color=MUTED)
    axes.set_ylabel("eval loss (nats per answer token)", color=MUTED)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=MUTED, length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color("#9aa5b1")


def _draw_staircase(axes: "Axes", members: list[TrialRecord], scale: int) -> None:
    """The best loss that each amount of memory buys, and what it leaves behind, lightly filled."""
    if not members:
        return
    right, top = axes.get_xlim()[1], axes.get_ylim()[1]
    xs = [*((trial.peak_memory_bytes or 0) / scale for trial in members), right]
    ys = [*(trial.eval_loss or 0.0 for trial in members), members[-1].eval_loss or 0.0]
    axes.fill_between(xs, ys, top, step="post", color=FRONT.color, alpha=0.045, linewidth=0, zorder=1)
    axes.step(xs, ys, where="post", color=FRONT.color, linewidth=2, zorder=4)


def _draw_group(
    axes: "Axes", group: Group, trials: list[TrialRecord], scale: int, limits: tuple[float, float]
) -> None:
    if not trials:
        return
    is_front = group is FRONT
    xs = [(memory_bytes(trial) or 0) / scale for trial in trials]
    ys = [drawn_loss(trial, limits) for trial in trials]
    crowded = len(trials) > 60
    if is_front:
        errors = [trial.eval_loss_stderr or 0.0 for trial in trials]
        axes.errorbar(
            xs, ys, yerr=errors, fmt="none", ecolor=group.color, elinewidth=1, capsize=2.5, zorder=5
        )
    hollow = group.mpl_marker in "vD"
    axes.scatter(
        xs,
        ys,
        s=75 if is_front else 16 if crowded else 40,
        marker=group.mpl_marker,
        label=group.label,
        facecolors="none" if hollow else group.color,
        edgecolors=None if group is INFEASIBLE else group.color if hollow else "white",
        linewidths=1.6 if group is INFEASIBLE else 1.2,
        alpha=1.0 if is_front else 0.5 if crowded else 0.9,
        zorder=6 if is_front else 3,
    )


def _draw_base(axes: "Axes", front: Front) -> None:
    if front.base is None:
        return
    loss = front.base.eval_loss
    axes.axhline(loss, color=BASE_COLOR, linestyle=(0, (5, 4)), linewidth=1.2, zorder=2)
    place = {"xycoords": ("axes fraction", "data"), "xytext": (-4, -5), "textcoords": "offset points"}
    axes.annotate(
        f"untouched model {loss:.2f}", (1, loss), ha="right", va="top", fontsize=10, color=BASE_COLOR, **place
    )


def _draw_baseline(axes: "Axes", front: Front, scale: int) -> None:
    if front.baseline is None:
        return
    place = (front.baseline.peak_memory_bytes / scale, front.baseline.eval_loss)
    axes.scatter(*place, s=260, marker="*", color=BASELINE_COLOR, edgecolors="white", zorder=7)
    _label(axes, "full fine-tuning", place, BASELINE_COLOR, above=True)


def _draw_knee(axes: "Axes", trial: TrialRecord, scale: int) -> None:
    """A ring around the recommended trial."""
    place = ((trial.peak_memory_bytes or 0) / scale, trial.eval_loss or 0.0)
    ring = {"facecolors": "none", "edgecolors": KNEE_COLOR, "linewidths": 2.4}
    axes.scatter(*place, s=250, marker="o", zorder=7, **ring)
    _label(axes, "recommended", place, _KNEE_INK, above=False)


def _label(axes: "Axes", text: str, place: tuple[float, float], color: str, *, above: bool) -> None:
    offset, side = ((0, 13), "bottom") if above else ((0, -14), "top")
    halo = {"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none", "alpha": 0.75}
    axes.annotate(
        text, place, xytext=offset, textcoords="offset points", ha="center", va=side,
        fontsize=10.5, fontweight="bold", color=color, bbox=halo, zorder=8,
    )  # fmt: skip
