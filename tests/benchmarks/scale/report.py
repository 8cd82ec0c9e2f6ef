"""The figures of all sizes as one table, how they grow, and what breaks first."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tests.benchmarks.tables import markdown

Figures = Mapping[str, Any]
# Parts of the driver's time by the rows of the table.
PARTS = {
    "scheduler": ("scheduler",),
    "sampler": ("sampler", "searcher"),
    "study": ("study (SQLite)",),
    "journal, recorder, front.json": ("journal", "recorder", "front.json", "execution variants"),
    "tracker's update": ("tracker's update",),
    "progress, hung trials": ("progress view", "supervisor"),
}
MIB = 2**20


def cpu_of(figures: Figures, *names: str) -> float:
    """CPU seconds of some parts."""
    return sum(figures["parts"][name]["cpu_seconds"] for name in names if name in figures["parts"])


def driver_seconds(figures: Figures) -> float:
    """CPU seconds of the driver's thread, Tune's own loop aside."""
    return cpu_of(figures, *figures["parts"])


def exponent(first: float, last: float, sizes: Sequence[float]) -> float:
    """The power with which a total grows from the smallest to the largest size: 1 is linear.

    >>> round(exponent(2.0, 200.0, [10, 100]), 3)
    2.0
    """
    if len(sizes) < 2 or first <= 0 or last <= 0:
        return math.nan
    return math.log(last / first) / math.log(sizes[-1] / sizes[0])


def totals(figures: Figures) -> dict[str, float]:
    """What is compared between sizes, as totals of a sweep."""
    rows = {f"driver: {row}, s": cpu_of(figures, *names) for row, names in PARTS.items()}
    mlflow, sizes = figures["mlflow_in_all"], figures["bytes"]
    return {
        **rows,
        "driver: all of it, s": driver_seconds(figures),
        "study's transactions": figures["study_commits"],
        "MLflow's thread, s": mlflow["cpu_seconds"],
        "MLflow's writing calls": sum(mlflow["calls"].values()),
        "MLflow's transactions": mlflow["commits"],
        "trials.jsonl, MiB": sizes["trials.jsonl"] / MIB,
        "front.json, MiB": sizes["front.json"] / MIB,
        "optuna.db, MiB": sizes["optuna.db"] / MIB,
        "mlflow.db, MiB": sizes["mlflow.db"] / MIB,
        "journal read again by resume, s": figures["reopen_seconds"],
        "peak memory above the imports, MiB": (figures["peak_bytes"] - figures["peak_bytes_before"]) / MIB,
    }


def table(found: Sequence[Figures]) -> tuple[list[str], list[list[str]]]:
    """Columns and rows: totals, per trial at the largest size, and growth."""
    sizes = [figures["trials"] for figures in found]
    columns = ["", *(f"{size:,} trials" for size in sizes), f"per trial at {sizes[-1]:,}", "grows as n^"]
    every = [totals(figures) for figures in found]
    # With no more trials than devices all suggestions are random, and cost nothing: what follows is no growth.
    unlike = {"driver: sampler, s", "driver: all of it, s"} if sizes[0] <= found[0]["devices"] else set()
    rows = []
    for name in every[0]:
        values = [each[name] for each in every]
        power = math.nan if name in unlike else exponent(values[0], values[-1], sizes)
        each = values[-1] / sizes[-1]
        unit = {"s": (f"{1000 * each:.3g} ms"), "MiB": f"{1024 * each:.3g} KiB"}.get(name.rpartition(", ")[2])
        rows.append(
            [name, *(f"{value:,.3g}" if value < 1000 else f"{value:,.0f}" for value in values),
             unit or f"{each:.3g}", "-" if math.isnan(power) else f"{power:.2f}"]
        )  # fmt: skip
    return columns, rows


def load(figures: Figures) -> dict[str, float]:
    """What the devices send and what one core takes, in rungs per second.

    Both threads of the driver share one core (Python's lock): ``rung_seconds`` is what it needs for a rung, a sixth or so
    of which is MLflow's. ``offered`` is what the devices of this sweep sent in virtual time.
    """
    rungs = figures["rungs"]
    needed = (driver_seconds(figures) + figures["mlflow_in_all"]["cpu_seconds"]) / rungs
    offered = rungs / figures["virtual_seconds"]
    return {
        "rung_seconds": needed,
        "taken": 1 / needed,
        "offered": offered,
        "shortest_rung_seconds": figures["devices"] * needed,
    }


def verdict(found: Sequence[Figures], tune: Sequence[Figures], files: Figures | None) -> list[str]:
    """Sentences below the table."""
    last = found[-1]
    rate, costs = load(last), {name: cpu_of(last, *parts) for name, parts in PARTS.items()}
    most = max(costs, key=lambda name: costs[name])
    text = [
        f"{last['devices']:,} devices send {rate['offered']:.1f} rungs a second at the recorded curves' pace; "
        f"one core of the driver takes {rate['taken']:.1f}. Most of it is the {most} "
        f"({costs[most] / driver_seconds(last):.0%}). It keeps {last['devices']:,} devices busy once a rung takes "
        f"{rate['shortest_rung_seconds'] / 60:.1f} minutes or more on the average.",
        f"MLflow wrote {last['records_while_playing']:,} states of trials meanwhile and had "
        f"{last['records_at_the_end']:,} to look at in the end, which took {last['mlflow_closing_seconds']:.0f} s. "
        f"The first {last['devices']:,} suggestions are random and cost nothing: nothing has reported yet.",
    ]
    if len(tune) > 1:
        first, second = tune[0], tune[-1]
        trials = second["trials"] - first["trials"]
        per_trial = (second["driver_cpu_seconds"] - first["driver_cpu_seconds"]) / trials
        text.append(
            f"Ray Tune's own loop, measured with {second['workers']} real workers that do nothing: "
            f"{1000 * per_trial:.0f} ms of CPU a trial of three rungs and checkpoints (from {first['trials']} to "
            f"{second['trials']} trials)."
        )
    if files is not None:
        text.append(
            f"A trial leaves {files['files_per_trial']:.0f} files in tune/ (small real sweep), so {last['trials']:,} "
            f"leave {files['files_per_trial'] * last['trials']:,.0f}; all else is {last['files']} files."
        )
    return text


def section(found: Sequence[Figures], tune: Sequence[Figures], files: Figures | None) -> str:
    """Markdown for the README."""
    return markdown(*table(found)) + "\n\n" + " ".join(verdict(found, tune, files))
