"""Intervals of a mean over seeds and examples: they hold what they promise."""

import math

import numpy as np
import pytest

from analysis.intervals import half_width, mean_interval, ratio_interval


def test_by_hand() -> None:
    """Seeds 0 and 2 apart, no other spread: 1 +- t(1) x sqrt(2) / sqrt(2), and nothing from the examples."""
    mean, interval = mean_interval([[0.0, 0.0], [2.0, 2.0]])
    assert mean == 1.0
    assert interval == pytest.approx((1 - 12.7062, 1 + 12.7062), abs=1e-3)


def test_both_parts_add_in_quadrature() -> None:
    values = np.array([[1.0, 2.0, 4.0], [1.5, 2.5, 4.5]])
    _, interval = mean_interval(values)
    assert interval is not None
    parts = half_width([7 / 3, 8.5 / 3]), half_width([1.25, 2.25, 4.25])
    assert (interval[1] - interval[0]) / 2 == pytest.approx(math.hypot(*parts))


@pytest.mark.parametrize("values", [[[1.0, 2.0]], [[1.0], [2.0]]])
def test_one_seed_or_one_example_has_no_interval(values: list[list[float]]) -> None:
    assert mean_interval(values)[1] is None


@pytest.mark.parametrize(
    ("seed_spread", "example_spread", "noise"), [(1, 0, 0), (0, 1, 0), (1, 1, 0), (0.3, 1, 1)]
)
def test_the_true_mean_is_inside_at_least_as_often_as_promised(
    seed_spread: float, example_spread: float, noise: float
) -> None:
    random = np.random.default_rng(0)
    inside, runs = 0, 2000
    for _ in range(runs):
        seeds, examples = random.normal(size=(3, 1)), random.normal(size=(1, 20))
        values = seed_spread * seeds + example_spread * examples + noise * random.normal(size=(3, 20))
        _, interval = mean_interval(values)
        assert interval is not None
        inside += interval[0] <= 0 <= interval[1]
    assert inside / runs > 0.95 - 3 * math.sqrt(0.95 * 0.05 / runs)  # three standard errors
    assert inside / runs < 0.9975 or noise > 0 or seed_spread == example_spread == 1


def test_ratio_of_a_mean_to_a_fixed_number() -> None:
    low, high = ratio_interval([2.0, 4.0, 6.0], 2.0) or (0.0, 0.0)
    assert (low + high) / 2 == pytest.approx(2.0)
    assert high - low == pytest.approx(2 * half_width([2.0, 4.0, 6.0]) / 2)
    assert ratio_interval([2.0, 4.0], 2.0) is None
