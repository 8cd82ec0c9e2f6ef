"""What a rung knows of the trials that reached it, and which of them are worth going on with.

The order is that of MO-ASHA (arXiv 2106.12639): by non-dominated rank, and where a front has to be cut, so that it stays
spread (epsilon-net: the best loss first, then always the point furthest from those taken). Differences that measuring
cannot tell apart do not dominate.
"""

import math
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from search.one_thread import one_thread

# A rung compares a report with this many of the newest ones, which bounds the time of a decision. A quantile of one
# third that is estimated from 128 reports has a standard error of sqrt(1/3 * 2/3 / 128) = 4 %.
WINDOW = 128


@dataclass(frozen=True, eq=False)
class Report:
    """What a trial measured at a rung.

    ``example_losses`` are the validation examples' parts of the loss: their mean is ``loss``. With them two trials are
    compared example by example, which is far sharper than two standard errors over examples that differ much more from
    each other than the trials do. Without them (None) the standard errors are combined as if independent.
    """

    loss: float
    stderr: float
    memory_bytes: float
    example_losses: NDArray[np.float64] | None = None


@dataclass
class Rung:
    """The reports at one number of examples, by trial, and which trials went on from there.

    Attributes:
        examples: where the rung is.
        reduction_factor: one in so many goes on.
        resolution: relative difference of memory below which two trials need the same.
        reports: what was measured, by trial; add with `add`.
        promoted: the trials that went on.
        nothing: the untouched model's loss, in no memory: what training has to beat to be worth anything.
    """

    examples: int
    reduction_factor: int
    resolution: float = 0.01
    reports: dict[str, Report] = field(default_factory=dict)
    promoted: set[str] = field(default_factory=set)
    nothing: Report | None = None
    _best: list[str] | None = None

    def add(self, name: str, report: Report) -> None:
        """Take note of a trial's report."""
        self.reports[name] = report
        self.forget_order()

    def compare_with(self, nothing: Report) -> None:
        """Take note of the untouched model."""
        self.nothing = nothing
        self.forget_order()

    def forget_order(self) -> None:
        """What is known has changed: who is best has to be found anew."""
        self._best = None

    @property
    def best(self) -> list[str]:
        """The trials worth going on with, best first: one in ``reduction_factor`` of the newest, rounded down."""
        return self._ordered()[: min(len(self.reports), WINDOW) // self.reduction_factor]

    @property
    def single_best(self) -> list[str]:
        """The best of all, however few have reported; nobody if none has."""
        return self._ordered()[:1]

    @property
    def newest(self) -> list[str]:
        """The trials that are compared, the latest last."""
        return list(islice(reversed(self.reports), WINDOW))[::-1]

    def _ordered(self) -> list[str]:
        if self._best is None:
            newest = self.newest
            count = max(1, len(newest) // self.reduction_factor)
            reports = [self.reports[name] for name in newest]
            self._best = [newest[index] for index in ranked(reports, self.resolution, count, self.nothing)]
        return self._best


def ranked(
    reports: list[Report], resolution: float, count: int | None = None, nothing: Report | None = None
) -> list[int]:
    """Indices of the ``count`` best reports (None: of all): by front, and by loss within a front that is not cut.

    What is not better than ``nothing`` by more than noise is on no front before the second.
    """
    if not reports:
        return []
    wanted = len(reports) if count is None else count
    points = np.array([(report.loss, math.log(report.memory_bytes)) for report in reports])
    beats = _dominance(reports if nothing is None else [*reports, nothing], resolution)
    # 1 where no training is better; it counts against the first front only.
    useless = beats[len(reports) :, : len(reports)].sum(axis=0)
    beats = beats[: len(reports), : len(reports)]
    beaten_by = beats.sum(axis=0) + useless
    left = np.ones(len(reports), dtype=bool)
    order: list[int] = []
    while len(order) < wanted:
        front = np.flatnonzero(left & (beaten_by == 0))
        if not len(front):  # noise can close a circle: then nobody in it is better
            front = np.flatnonzero(left)
        room = wanted - len(order)
        by_loss = front[np.lexsort((points[front, 1], points[front, 0]))]
        order += by_loss.tolist() if len(front) <= room else _spread(points, by_loss, room)
        left[front] = False
        beaten_by = beaten_by - beats[front].sum(axis=0) - useless
        useless = np.zeros_like(useless)
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
    parts = [report.example_losses for report in reports if report.example_losses is not None]
    lengths = {len(part) for part in parts}
    if len(parts) < len(reports) or len(lengths) > 1 or min(lengths) < 2:
        stderr = np.array([report.stderr for report in reports])
        return np.asarray(np.hypot(stderr[:, None], stderr))
    losses = np.stack(parts)
    centred = losses - losses.mean(axis=1, keepdims=True)
    with one_thread():
        covariance = centred @ centred.T / (losses.shape[1] - 1)
    variance = np.diag(covariance)
    squares = np.maximum(variance[:, None] + variance - 2 * covariance, 0.0)
    return np.asarray(np.sqrt(squares / losses.shape[1]))


def _spread(points: NDArray[np.float64], members: NDArray[np.int64], count: int) -> list[int]:
    """``count`` of the members: the first, then always the one furthest from those taken (in units of their range)."""
    own = points[members]
    span = own.max(axis=0) - own.min(axis=0)
    scaled = own / np.where(span > 0, span, 1.0)
    taken, distance = [0], np.full(len(members), np.inf)
    while len(taken) < count:
        distance = np.minimum(distance, ((scaled - scaled[taken[-1]]) ** 2).sum(axis=1))
        distance[taken[-1]] = -np.inf  # and stays it
        taken.append(int(distance.argmax()))
    return members[taken].tolist()
