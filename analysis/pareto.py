"""Pareto dominance for two minimised objectives: front, ranks, hypervolume, knee.

Points are pairs such as ``(eval_loss, peak_memory_bytes)``; the first objective breaks ties ("best quality").
NaN and infinite coordinates raise ValueError everywhere: nothing is left out silently.
"""

from bisect import bisect_right
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Point = Sequence[float]
Points = Sequence[Point]

# Normalised distances that differ by less are equal but for rounding.
_ROUNDING = 1e-9


def _as_array(points: Points) -> NDArray[np.float64]:
    """``n x 2`` array of finite coordinates."""
    array = np.asarray(points, dtype=np.float64)
    if array.size == 0:
        return array.reshape(0, 2)
    if array.ndim != 2 or array.shape[1] != 2:
        raise ValueError(f"points must be pairs of numbers, not an array of shape {array.shape}")
    if not np.isfinite(array).all():
        bad = int(np.flatnonzero(~np.isfinite(array).all(axis=1))[0])
        raise ValueError(f"point {bad} is not finite: {tuple(array[bad].tolist())}")
    return array


def dominates(a: Point, b: Point) -> bool:
    """Whether ``a`` is nowhere worse than ``b`` and somewhere better.

    Raises:
        ValueError: a coordinate is NaN or infinite.

    >>> dominates((1, 2), (1, 3)), dominates((1, 2), (1, 2)), dominates((1, 3), (2, 2))
    (True, False, False)
    """
    first, second = _as_array([a, b])
    return bool((first <= second).all() and (first < second).any())


def nondominated_ranks(points: Points) -> list[int]:
    """The number of the front each point is on: 0 for the Pareto front, 1 for the front once that is gone.

    In order of the first objective, a point is dominated by someone on front k exactly when k's smallest
    second objective so far is not above its own; those minima ascend with k, so bisection finds the front:
    O(n log n) (Jensen 2003, "Reducing the run-time complexity of multiobjective EAs", two objectives).

    Raises:
        ValueError: a coordinate is NaN or infinite.

    >>> nondominated_ranks([(1, 3), (2, 2), (2, 3), (3, 3), (1, 3)])
    [0, 0, 1, 2, 0]
    """
    array = _as_array(points)
    ranks = [0] * len(array)
    smallest_second: list[float] = []  # by front
    previous: tuple[tuple[float, float], int] | None = None
    for index in np.lexsort((array[:, 1], array[:, 0])).tolist():
        point = (float(array[index, 0]), float(array[index, 1]))
        if previous is not None and previous[0] == point:
            rank = previous[1]  # exact duplicates do not dominate each other
        else:
            rank = bisect_right(smallest_second, point[1])
            smallest_second[rank : rank + 1] = [point[1]]
        ranks[index] = rank
        previous = (point, rank)
    return ranks


def front_indices(points: Points) -> list[int]:
    """Indices of the non-dominated points, ascending. All exact duplicates of a front point are on the front.

    Raises:
        ValueError: a coordinate is NaN or infinite.

    >>> front_indices([(1, 3), (2, 2), (2, 3), (1, 3)])
    [0, 1, 3]
    """
    return [index for index, rank in enumerate(nondominated_ranks(points)) if rank == 0]


def hypervolume(points: Points, reference: Point) -> float:
    """Area that the points dominate below ``reference``, exactly; points not below it contribute nothing.

    The unit is the product of the objectives' units.

    Raises:
        ValueError: a coordinate of a point or of the reference is NaN or infinite.

    >>> hypervolume([(1, 2), (2, 1), (9, 0)], (3, 3))
    3.0
    """
    array = _as_array(points)
    bound = _as_array([reference])[0]
    inside = array[(array < bound).all(axis=1)]
    front = inside[np.lexsort((inside[:, 1], inside[:, 0]))]
    area, ceiling = 0.0, float(bound[1])
    for first, second in front.tolist():
        if second < ceiling:  # dominated points lie above the staircase built so far
            area += (float(bound[0]) - first) * (ceiling - second)
            ceiling = second
    return area


def knee_index(points: Points) -> int:
    """Index of the front's knee: the point furthest below the straight line through the two extremes.

    Both objectives are min-max normalised over the front, so the choice does not depend on units (Das 1999,
    "On characterizing the 'knee' of the Pareto curve based on normal-boundary intersection"). Among equally
    far points it is the one of better quality. With no point strictly below the line (also: with one or two
    points) it is the best-quality point.

    Raises:
        ValueError: no points, a coordinate that is NaN or infinite, or a point that another one dominates.

    >>> knee_index([(1.0, 10.0), (1.1, 4.0), (3.0, 3.0)])
    1
    """
    array = _as_array(points)
    if len(array) == 0:
        raise ValueError("an empty front has no knee")
    if len(front_indices(points)) < len(array):
        raise ValueError("the knee is defined on a front: some of these points are dominated")
    by_quality = np.lexsort((array[:, 1], array[:, 0]))
    low, high = array.min(axis=0), array.max(axis=0)
    if (low == high).any():  # all points are equal
        return int(by_quality[0])
    normalised = (array - low) / (high - low)
    # sqrt(2) times the distance. The extremes have 0: with nothing below the line the best quality is first.
    below_line = (1.0 - normalised.sum(axis=1))[by_quality]
    return int(by_quality[np.argmax(below_line > below_line.max() - _ROUNDING)])
