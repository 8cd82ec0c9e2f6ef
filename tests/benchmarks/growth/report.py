"""The curves as a table and a figure, and where they bend upwards."""

import io
import math
import textwrap
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from analysis.files import write_atomically
from tests.benchmarks.growth.points import CURVE_NAMES
from tests.benchmarks.tables import show

Found = Sequence[Mapping[str, Any]]
MEASURES = (("makespan_seconds", "makespan"), ("driver_cpu_seconds", "driver's CPU time"))
# Growth by a power of the size: 1 is linear. Above this it is called superlinear; timing noise stays below.
SUPERLINEAR = 1.15
COLUMNS = ("point", "makespan, s", "driver CPU, s", "driver CPU per further unit, ms", "start, s", "all CPU, s",
           "driver, MiB", "all, GiB (PSS)")  # fmt: skip


def curve(found: Found, name: str) -> list[Mapping[str, Any]]:
    """The points of one curve in order, repetitions left out."""
    return sorted((p for p in found if p["curve"] == name and not p["again"]), key=lambda point: point["x"])


def per_unit(points: Found, measure: str) -> list[float]:
    """What each further trial, worker or row cost between neighbours, in seconds.

    >>> per_unit([{"x": 1, "s": 10.0}, {"x": 3, "s": 14.0}], "s")
    [2.0]
    """
    return [(b[measure] - a[measure]) / (b["x"] - a["x"]) for a, b in pairwise(points)]


def exponent(points: Found, measure: str) -> float | None:
    """How the part that grows does so: the power p of ``x ** p`` by least squares, above the curve's first point.

    What the first point took is a constant (imports, Ray) and one unit of growth together, so with t = a + b x^p,
    t - t(first) over x - x(first) is constant for p = 1 and grows like x^(p - 1) otherwise. None with too few points.
    """
    steps = [
        (math.log(p["x"]), math.log((p[measure] - points[0][measure]) / (p["x"] - points[0]["x"])))
        for p in points[1:]
        if p[measure] > points[0][measure]
    ]
    if len(steps) < 2:
        return None
    mean_x, mean_y = (sum(values) / len(steps) for values in zip(*steps, strict=True))
    slope = sum((x - mean_x) * (y - mean_y) for x, y in steps) / sum((x - mean_x) ** 2 for x, _ in steps)
    return 1 + slope


def table_rows(found: Found) -> list[list[str]]:
    """In the order of `COLUMNS`."""
    rows = []
    for name in CURVE_NAMES:
        points = curve(found, name)
        further = ["", *(f"{1000 * step:.3g}" for step in per_unit(points, "driver_cpu_seconds"))]
        again = [point for point in found if point["curve"] == name and point["again"]]
        for point, step in [*zip(points, further, strict=False), *((point, "") for point in again)]:
            rows.append(
                [
                    f"{point['x']:,} {name}{' again' if point['again'] else ''}",
                    f"{point['makespan_seconds']:.1f}",
                    f"{point['driver_cpu_seconds']:.1f}",
                    step,
                    f"{point['phases']['start']:.1f}",
                    f"{point['cpu_seconds']:.1f}",
                    f"{point['peak_root_bytes'] / 2**20:.0f}",
                    f"{point['peak_pss_bytes'] / 2**30:.1f}",
                ]
            )
    return rows


def verdicts(found: Found) -> list[str]:
    """How each measure grows along the trials and the rows."""
    said = []
    for name in ("trials", "rows"):
        for measure, what in MEASURES:
            power = exponent(curve(found, name), measure)
            if power is not None:
                kind = "SUPERLINEAR" if power > SUPERLINEAR else "linear or less"
                said.append(f"{what} grows with {name} to the power {power:.2f}: {kind}")
    return said


def caption(settings: Mapping[str, Any]) -> str:
    """What was run."""
    beyond = " (more workers than that only queue for cores)" if settings["cores"] < 8 else ""
    return (
        f"Sweeps of a tiny random model on {settings['cores']} cores{beyond}, each in a process of its own. Workers: "
        f"{settings['trials']} trials; rows: 4 trials, start is until the first worker begins. Memory: largest sums, "
        "sampled each second."
    )


def print_all(found: Found, settings: Mapping[str, Any]) -> None:
    """Onto the screen."""
    show(COLUMNS, table_rows(found), caption(settings))
    for line in verdicts(found):
        print(line)


def draw(found: Found, settings: Mapping[str, Any], path: Path) -> None:
    """One panel per curve, both axes logarithmic, with a line of slope 1 for the eye."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator

    from analysis.figure_style import GRID, INK, MUTED

    figure = Figure(figsize=(11.0, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, name in zip(figure.subplots(1, 3), CURVE_NAMES, strict=True):
        points = curve(found, name)
        if not points:
            continue
        x = [point["x"] for point in points]
        for (measure, what), color, marker in zip(MEASURES, ("#0072b2", "#d55e00"), "os", strict=True):
            axes.plot(x, [point[measure] for point in points], color=color, marker=marker, label=what)
        axes.plot(
            x, [point["phases"]["start"] for point in points], color="#009e73", marker="^", label="start"
        )
        least = points[0]["driver_cpu_seconds"]
        axes.plot(x, [least * value / x[0] for value in x], color=MUTED, linestyle=":", label="slope 1")
        axes.set(
            xscale="log",
            yscale="log",
            xlabel=name,
            ylim=(None, 4 * max(p["makespan_seconds"] for p in points)),
        )
        axes.set_xticks(x, labels=[f"{value:,}" for value in x])
        axes.minorticks_off()
        axes.yaxis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.grid(color=GRID, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("seconds", color=INK)
    figure.axes[0].legend(frameon=False, fontsize=8)
    figure.supxlabel("\n".join(textwrap.wrap(caption(settings), 150)), fontsize=7.5, color=MUTED)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    write_atomically(path, buffer.getvalue())
