"""What a rung knows of the trials that reached it, and which of them are worth going on with.

The order is that of MO-ASHA (arXiv 2106.12639): by non-dominated rank, and within a rank so that the front stays spread
(epsilon-net: the best loss first, then always the point furthest from those taken). Differences that measuring cannot
tell apart do not dominate.
"""

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

# A rung compares a report with this many of the newest ones. It bounds the time of a decision; a quantile estimated
# from 200 reports has a standard error of at most sqrt(1/3 * 2/3 / 200) = 3 %.
WINDOW = 200


@dataclass(frozen=True)
class Report:
    """What a trial measured at a rung.

    ``example_losses`` are the validation examples' parts of the loss: their mean is ``loss``. With them two trials are
    compared example by example, which is far sharper than two standard errors over examples that differ much more from
    each other than the trials do. Without them (None) the standard errors are combined as if independent.
    """

    loss: float
    stderr: float
    memory_bytes: float
    example_losses: tuple[float, ...] | None = None


@dataclass
class Rung:
    """The reports at one number of examples, by trial, and which trials went on from there.

    Attributes:
        examples: where the rung is.
        resolution: relative difference of memory below which two trials need the same.
    """

    examples: int
    resolution: float = 0.01
    reports: dict[str, Report] = field(default_factory=dict)
    promoted: set[str] = field(default_factory=set)

    def quota(self, reduction_factor: int) -> int:
        """How many of those that have reported may go on: one in ``reduction_factor``, rounded up."""
        return math.ceil(len(self.reports) / reduction_factor)

    def best(self, reduction_factor: int) -> list[str]:
        """The trials worth going on with, best first: one in ``reduction_factor`` of the newest reports."""
        names = list(self.reports)[-WINDOW:]
        order = ranked([self.reports[name] for name in names], self.resolution)
        return [names[index] for index in order[: math.ceil(len(names) / reduction_factor)]]


def ranked(reports: list[Report], resolution: float) -> list[int]:
    """Indices of the reports from best to worst."""
    points = np.array([(report.loss, math.log(report.memory_bytes)) for report in reports])
    remaining = np.arange(len(reports))
    beats = _dominance(reports, resolution)
    order: list[int] = []
    while len(remaining):
        beaten = np.asarray(beats[np.ix_(remaining, remaining)].any(axis=0))
        if beaten.all():  # noise can close a circle: then nobody in it is better
            beaten = np.zeros_like(beaten)
        order += _spread(points, remaining[~beaten])
        remaining = remaining[beaten]
    return order


def _dominance(reports: list[Report], resolution: float) -> NDArray[np.bool_]:
    """``[n, n]``: whether the row's report dominates the column's, beyond what measuring can tell apart."""
    loss = np.array([report.loss for report in reports])
    memory = np.array([report.memory_bytes for report in reports], dtype=float)
    better_loss = loss[:, None] < loss - _noise(reports)
    less_memory = memory[:, None] < memory * (1 - resolution)
    return np.asarray((better_loss | less_memory) & ~better_loss.T & ~less_memory.T)


def _noise(reports: list[Report]) -> NDArray[np.float64]:
    """``[n, n]``: the standard error of the difference between two losses."""
    stderr = np.array([report.stderr for report in reports])
    lengths = {len(report.example_losses or ()) for report in reports}
    if lengths == {0} or len(lengths) > 1 or min(lengths) < 2:
        return np.asarray(np.hypot(stderr[:, None], stderr))
    losses = np.array([report.example_losses for report in reports])
    centred = losses - losses.mean(axis=1, keepdims=True)
    covariance = centred @ centred.T / (losses.shape[1] - 1)
    variance = np.diag(covariance)
    squares = np.maximum(variance[:, None] + variance - 2 * covariance, 0.0)
    return np.asarray(np.sqrt(squares / losses.shape[1]))


def _spread(points: NDArray[np.float64], members: NDArray[np.int64]) -> list[int]:
    """The members from the best loss on, each next one furthest from all before it (in units of their range)."""
    own = points[members]
    span = own.max(axis=0) - own.min(axis=0)
    scaled = own / np.where(span > 0, span, 1.0)
    taken = [int(np.lexsort((own[:, 1], own[:, 0]))[0])]
    distance = np.full(len(members), np.inf)
    for _ in range(len(members) - 1):
        distance = np.minimum(distance, np.linalg.norm(scaled - scaled[taken[-1]], axis=1))
        distance[taken] = -1.0
        taken.append(int(distance.argmax()))
    return members[taken].tolist()
