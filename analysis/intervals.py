"""Means with 95 % confidence intervals over the seeds and the examples of an evaluation."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

CONFIDENCE = 0.95

Interval = tuple[float, float]


def student_t(degrees_of_freedom: int) -> float:
    """How many standard errors a two-sided interval reaches to either side.

    >>> round(student_t(2), 2), round(student_t(47), 2)
    (4.3, 2.01)
    """
    from scipy.special import stdtrit

    return float(stdtrit(degrees_of_freedom, (1 + CONFIDENCE) / 2))


def half_width(values: Sequence[float]) -> float:
    """Half of the interval of a mean of independent values; at least two are needed."""
    return student_t(len(values) - 1) * float(np.std(values, ddof=1)) / math.sqrt(len(values))


def mean_interval(values: ArrayLike) -> tuple[float, Interval | None]:
    """The mean of ``values[seed, example]``, and what holds it for other seeds and other examples.

    Both are random samples, and crossed: every seed sees every example. The mean's variance is then at most the
    seeds' variance (of their means) over their number plus the examples' (of their means over the seeds) over theirs:
    the part where a seed and an example interact is counted twice (two-way random effects, Searle, Casella and
    McCulloch, Variance Components, 1992). Each part gets its own t quantile, and the two are added in quadrature. So
    the interval is rather too wide than too narrow.

    Returns:
        The mean; and the interval, None of fewer than two seeds or examples.
    """
    array = np.asarray(values, dtype=np.float64)
    mean = float(array.mean())
    if min(array.shape) < 2:
        return mean, None
    half = math.hypot(half_width(array.mean(axis=1).tolist()), half_width(array.mean(axis=0).tolist()))
    return mean, (mean - half, mean + half)


def ratio_interval(values: Sequence[float], denominator: float) -> Interval | None:
    """The interval of the mean of independent values over a fixed number; None of fewer than three."""
    if len(values) < 3:
        return None
    mean, half = float(np.mean(values)), half_width(values)
    return (mean - half) / denominator, (mean + half) / denominator
