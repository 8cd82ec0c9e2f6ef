"""The comparison as a picture: hypervolume and front found over compute, with bands."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from analysis.figure_style import GRID, INK, MUTED
from analysis.files import write_atomically
from tests.benchmarks.replay.compare import best_numbers
from tests.benchmarks.replay.report import caption

# Colours that colour-blind people can tell apart (Okabe and Ito, "Color Universal Design", 2008), ours first.
COLORS = ("#0072b2", "#d55e00", "#e69f00", "#8d99a6", "#009e73", "#cc79a7")
STYLES = ("-", "-", "--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)))
_SIZE_INCHES, _DPI = (11.0, 5.2), 150


def draw(results: Mapping[str, Any], path: Path) -> None:
    """Draw and write it atomically.

    Raises:
        OSError: the folder cannot be written to.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=_SIZE_INCHES, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    panels = (
        (left, "hypervolume", "share of the table's hypervolume"),
        (right, "found", "share of the true front found"),
    )
    for axes, what, label in panels:
        _panel(axes, results, what)
        axes.set_ylabel(label, color=INK)
    left.set_ylim(0.5, 1.005)
    left.axhline(0.95, color=MUTED, linewidth=0.8, linestyle=":")
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False, fontsize=9)
    figure.supxlabel(_wrap(caption(results)), fontsize=7.5, color=MUTED)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI)
    write_atomically(path, buffer.getvalue())


def _wrap(text: str) -> str:
    import textwrap

    return "\n".join(textwrap.wrap(text, 150))


def _panel(axes: Any, results: Mapping[str, Any], what: str) -> None:
    """Median lines and 10-90 % bands of every competitor in its best setting."""
    minutes = np.array(results["grid_train_seconds"]) / 60
    numbers = best_numbers(results["competitors"])
    for (name, own), color, style in zip(numbers.items(), COLORS, STYLES, strict=False):
        low, median, high = np.array(own["bands"][what]).T
        label = f"{name} ({results['competitors'][name]['best']})"
        axes.plot(minutes, median, color=color, linestyle=style, linewidth=1.8, label=label)
        axes.fill_between(minutes, low, high, color=color, alpha=0.13, linewidth=0)
    axes.set_xlabel("training, minutes of all workers", color=INK)
    axes.set_xlim(0, minutes[-1])
    axes.grid(color=GRID, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=MUTED)
