"""Scores of runs against the whole table: hypervolume and front over compute, and what it took to reach a level."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.pareto import hypervolume
from tests.benchmarks.replay.run import Run
from tests.benchmarks.replay.table import CurveTable

LEVELS = (0.90, 0.95, 0.99)  # of the table's hypervolume
RESOLUTION = 0.01  # of loss and of memory: the tolerance with which a front member counts as found
BAND = (10, 50, 90)  # percentiles


@dataclass(frozen=True)
class Curve:
    """One run's progress: after every completed trial that improved something, how far it was.

    ``train_seconds`` is spent by all workers, ``time`` is virtual seconds, both ascending; ``hypervolume`` and ``found``
    (front members) are shares of the table's, ascending; interpolated answers may exceed the
    table's hypervolume. ``last_*`` is where the run ended.
    """

    train_seconds: NDArray[np.float64]
    time: NDArray[np.float64]
    hypervolume: NDArray[np.float64]
    found: NDArray[np.float64]
    last_train_seconds: float

    def reach(self, level: float, axis: str = "train_seconds") -> float:
        """Compute (or ``time``) at which the hypervolume reached a level; infinite when it did not.

        >>> steps = np.array([1.0, 2.0])
        >>> Curve(steps, steps, np.array([0.5, 0.9]), steps, 3.0).reach(0.9)
        2.0
        """
        enough = np.flatnonzero(self.hypervolume >= level - 1e-12)
        return float(getattr(self, axis)[enough[0]]) if len(enough) else float("inf")

    def at(self, spent: NDArray[np.float64], what: str = "hypervolume") -> NDArray[np.float64]:
        """Values of the step function at given training seconds."""
        steps = np.concatenate([[0.0], getattr(self, what)])
        values: NDArray[np.float64] = steps[np.searchsorted(self.train_seconds, spent, side="right")]
        return values


def found_share(points: Sequence[tuple[float, float]], front: Sequence[tuple[float, float]]) -> float:
    """Share of front members that some point reaches, in both objectives, within `RESOLUTION`.

    >>> found_share([(1.0, 101.0)], [(1.0, 100.0), (0.5, 200.0)])
    0.5
    """
    if not points:
        return 0.0
    limit = np.array(front)[:, None, :] * (1 + RESOLUTION)
    reached = np.all(np.array(points)[None] <= limit, axis=2)
    return float(np.mean(np.any(reached, axis=1)))


def is_complete(table: CurveTable, run: Run) -> bool:
    """Whether nothing is left to gain that is scored: the whole hypervolume and the whole front."""
    points = [done.point for done in run.completions]
    enough = hypervolume(points, table.reference) >= table.hypervolume * (1 - 1e-12)
    return enough and found_share(points, table.front) == 1.0


def score(table: CurveTable, run: Run) -> Curve:
    """A run's curve. Repeats of a config add compute and nothing else."""
    times, volumes, shares = [], [], []
    points: list[tuple[float, float]] = []
    for done in run.completions:
        if done.point in points:
            continue
        points.append(done.point)
        times.append(done.time)
        volumes.append(hypervolume(points, table.reference) / table.hypervolume)
        shares.append(found_share(points, table.front))
    spent = run.train_seconds([*times, run.end])
    return Curve(spent[:-1], np.array(times), np.array(volumes), np.array(shares), float(spent[-1]))


def percentiles(values: Sequence[float]) -> list[float]:
    """The 10th, 50th and 90th percentile as values that occurred, so that infinite ones stay what they are."""
    return [float(v) for v in np.percentile(values, BAND, method="inverted_cdf")]


def summarise(runs: Sequence[Run], curves: Sequence[Curve], grid: NDArray[np.float64]) -> dict[str, Any]:
    """The numbers of one setting of one competitor; every list of three is percentiles 10, 50, 90 over seeds."""
    reach = {
        axis: {
            f"{level:.0%}": percentiles([curve.reach(level, axis) for curve in curves]) for level in LEVELS
        }
        for axis in ("train_seconds", "time")
    }
    bands = {
        what: [percentiles(column) for column in np.array([c.at(grid, what) for c in curves]).T.tolist()]
        for what in ("hypervolume", "found")
    }
    return {
        "seeds": len(runs),
        "train_seconds_to_reach": reach["train_seconds"],
        "virtual_seconds_to_reach": reach["time"],
        "reached": {f"{level:.0%}": sum(c.reach(level) < np.inf for c in curves) for level in LEVELS},
        "found_at_end": bands["found"][-1],
        "hypervolume_at_end": bands["hypervolume"][-1],
        "trials": percentiles([run.trials for run in runs]),
        "completed": percentiles([len(run.completions) for run in runs]),
        "unique_rows": percentiles([len(run.rows) for run in runs]),
        "resumed": percentiles([run.resumed for run in runs]),
        "stranded": max(run.stranded for run in runs),
        "bands": bands,
    }
