"""Properties of the Pareto code, against slow and obvious references."""

import doctest
import itertools
import math
import random
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis import pareto
from analysis.pareto import dominates, front_indices, hypervolume, knee_index, nondominated_ranks

Point = tuple[float, float]

# Small whole numbers make ties and duplicates common; the others are like losses and gibibytes.
whole = st.integers(0, 8).map(float)
ragged = st.floats(-100, 100, allow_nan=False, width=32)
points_of = lambda number: st.lists(st.tuples(number, number), max_size=24)  # noqa: E731
any_points = points_of(whole) | points_of(ragged)
some_points = any_points.filter(bool)
# Ascending first and descending second objectives make a front, whose points come in any order.
rising = st.lists(whole | ragged, min_size=1, max_size=12, unique=True).map(sorted)
fronts = st.tuples(rising, rising).map(lambda both: list(zip(both[0], both[1][::-1], strict=False)))
fronts = fronts.flatmap(st.permutations)


def slow_dominates(a: Point, b: Point) -> bool:
    return a[0] <= b[0] and a[1] <= b[1] and a != b


def slow_front(points: list[Point]) -> list[int]:
    return [i for i, p in enumerate(points) if not any(slow_dominates(q, p) for q in points)]


def slow_ranks(points: list[Point]) -> list[int]:
    """Peel off one front after the other."""
    ranks, left, rank = [0] * len(points), list(range(len(points))), 0
    while left:
        peeled = [left[i] for i in slow_front([points[i] for i in left])]
        for i in peeled:
            ranks[i] = rank
        left, rank = [i for i in left if i not in peeled], rank + 1
    return ranks


def slow_hypervolume(points: list[Point], reference: Point) -> Fraction:
    """The cells of the grid through all coordinates that some point dominates, in exact arithmetic."""
    inside = [p for p in points if p[0] < reference[0] and p[1] < reference[1]]
    xs = sorted({Fraction(p[0]) for p in inside} | {Fraction(reference[0])})
    ys = sorted({Fraction(p[1]) for p in inside} | {Fraction(reference[1])})
    area = Fraction(0)
    for (left, right), (low, high) in itertools.product(itertools.pairwise(xs), itertools.pairwise(ys)):
        if any(p[0] <= left and p[1] <= low for p in inside):
            area += (right - left) * (high - low)
    return area


def acceptable_knees(front: list[Point]) -> set[int]:
    """The points that may be the knee in exact arithmetic: several only where rounding may decide."""
    exact = [(Fraction(x), Fraction(y)) for x, y in front]
    (x0, y0), (x1, y1) = min(exact), max(exact)
    best_quality = exact.index((x0, y0))
    if len(exact) == 1:
        return {best_quality}
    depths = [1 - (x - x0) / (x1 - x0) - (y - y1) / (y0 - y1) for x, y in exact]
    rounding = Fraction(1, 10**6)
    deepest = {i for i, depth in enumerate(depths) if max(depths) - depth < rounding}
    return deepest if max(depths) > rounding else {best_quality} | deepest


@given(st.tuples(whole, whole), st.tuples(whole, whole))
def test_dominates_agrees_with_its_definition(a: Point, b: Point) -> None:
    assert dominates(a, b) == slow_dominates(a, b)
    assert not (dominates(a, b) and dominates(b, a))


@given(any_points)
def test_front_agrees_with_pairwise_dominance(points: list[Point]) -> None:
    assert front_indices(points) == slow_front(points)


@given(any_points)
def test_ranks_agree_with_peeling(points: list[Point]) -> None:
    assert nondominated_ranks(points) == slow_ranks(points)


@given(some_points, st.randoms(use_true_random=False))
def test_front_does_not_depend_on_the_order(points: list[Point], rng: random.Random) -> None:
    order = list(range(len(points)))
    rng.shuffle(order)
    shuffled = front_indices([points[i] for i in order])
    assert sorted(order[i] for i in shuffled) == front_indices(points)


@given(some_points)
def test_every_point_is_on_the_front_or_dominated_by_it(points: list[Point]) -> None:
    front = front_indices(points)
    assert front
    for index, point in enumerate(points):
        assert (index in front) != any(slow_dominates(points[i], point) for i in front)


@given(some_points)
def test_duplicates_of_a_front_point_are_all_on_the_front(points: list[Point]) -> None:
    assert len(front_indices(points + points)) == 2 * len(front_indices(points))


@given(points_of(whole), st.tuples(whole, whole))
def test_hypervolume_is_exact_on_whole_numbers(points: list[Point], reference: Point) -> None:
    assert hypervolume(points, reference) == slow_hypervolume(points, reference)


@given(points_of(ragged), st.tuples(ragged, ragged))
def test_hypervolume_agrees_with_the_grid(points: list[Point], reference: Point) -> None:
    expected = float(slow_hypervolume(points, reference))
    assert hypervolume(points, reference) == pytest.approx(expected, rel=1e-9, abs=1e-9)


@given(points_of(whole), st.tuples(whole, whole))
def test_another_point_never_lowers_the_hypervolume(points: list[Point], new: Point) -> None:
    before, after = hypervolume(points, (9, 9)), hypervolume([*points, new], (9, 9))
    is_new_front = not any(slow_dominates(p, new) or p == new for p in points)
    assert after > before if is_new_front else after == before


@given(some_points)
def test_only_the_front_counts_in_the_hypervolume(points: list[Point]) -> None:
    front = [points[i] for i in front_indices(points)]
    assert hypervolume(front, (101, 101)) == hypervolume(points, (101, 101))


@pytest.mark.parametrize("outside", [(3.0, 0.0), (0.0, 3.0), (9.0, 9.0)])
def test_points_on_or_beyond_the_reference_add_nothing(outside: Point) -> None:
    assert hypervolume([outside], (3, 3)) == 0
    assert hypervolume([(1, 1), outside], (3, 3)) == 4


def test_hypervolume_of_nothing_is_zero() -> None:
    assert hypervolume([], (1, 1)) == 0


@given(fronts)
def test_knee_agrees_with_exact_arithmetic(front: list[Point]) -> None:
    assert knee_index(front) in acceptable_knees(front)


@given(fronts, st.sampled_from([0.5, 2.0, 1024.0]), st.sampled_from([0.25, 4.0, 2.0**30]))
def test_knee_does_not_depend_on_units(front: list[Point], first: float, second: float) -> None:
    scaled = [(first * x, second * y) for x, y in front]
    assert knee_index(scaled) == knee_index(front)


@given(fronts, st.randoms(use_true_random=False))
def test_knee_does_not_depend_on_the_order(front: list[Point], rng: random.Random) -> None:
    shuffled = rng.sample(front, len(front))
    assert shuffled[knee_index(shuffled)] == front[knee_index(front)]


@pytest.mark.parametrize(
    ("front", "knee"),
    [
        ([(2.0, 5.0)], (2.0, 5.0)),
        ([(2.0, 5.0), (1.0, 9.0)], (1.0, 9.0)),
        ([(1.0, 9.0), (1.0, 9.0)], (1.0, 9.0)),
        ([(0.0, 2.0), (1.0, 1.0), (2.0, 0.0)], (0.0, 2.0)),  # on the line
        ([(0.0, 3.0), (1.0, 2.0), (2.0, 1.0), (3.0, 0.0)], (0.0, 3.0)),  # on it, with rounding
        ([(0.0, 4.0), (3.0, 3.0), (4.0, 0.0)], (0.0, 4.0)),  # above it
        ([(0.0, 4.0), (1.0, 2.0), (2.0, 1.0), (4.0, 0.0)], (1.0, 2.0)),  # equally far: better quality
        ([(0.0, 7.0), (1.0, 5.0), (2.0, 4.0), (7.0, 0.0)], (1.0, 5.0)),  # likewise, but for rounding
        ([(3.30, 1.2e9), (3.31, 0.9e9), (3.90, 0.8e9)], (3.31, 0.9e9)),
    ],
)
def test_knee_of_small_fronts(front: list[Point], knee: Point) -> None:
    assert front[knee_index(front)] == knee


def test_knee_refuses_an_empty_set_and_dominated_points() -> None:
    with pytest.raises(ValueError, match="no knee"):
        knee_index([])
    with pytest.raises(ValueError, match="dominated"):
        knee_index([(1, 1), (2, 2)])


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_coordinates_that_are_not_finite_are_refused(bad: float) -> None:
    points = [(1.0, 2.0), (bad, 1.0)]
    for function in (front_indices, nondominated_ranks, knee_index):
        with pytest.raises(ValueError, match="point 1 is not finite"):
            function(points)
    with pytest.raises(ValueError, match="not finite"):
        hypervolume(points, (9, 9))
    with pytest.raises(ValueError, match="not finite"):
        hypervolume([], (bad, 9))
    with pytest.raises(ValueError, match="not finite"):
        dominates((1, bad), (1, 1))


def test_points_must_be_pairs() -> None:
    with pytest.raises(ValueError, match="pairs"):
        front_indices([(1, 2, 3)])


def test_a_hundred_thousand_points_take_well_under_a_second() -> None:
    rng = random.Random(0)
    points = [(rng.random(), rng.random()) for _ in range(100_000)]
    assert 1 <= len(front_indices(points)) < 100  # the pairwise definition would need 10^10 comparisons


def test_examples_in_the_docstrings() -> None:
    assert doctest.testmod(pareto).failed == 0
