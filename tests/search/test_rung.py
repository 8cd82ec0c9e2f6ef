"""Which trials a rung thinks best: Pareto rank beyond noise, spread along the front."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.pareto import nondominated_ranks
from search.rung import WINDOW, Report, Rung, ranked


def exact(loss: float, memory_bytes: float) -> Report:
    return Report(loss, 0.0, memory_bytes)


def noisy(parts: list[float], memory_bytes: float = 100.0) -> Report:
    spread = float(np.std(parts, ddof=1)) / len(parts) ** 0.5
    return Report(float(np.mean(parts)), spread, memory_bytes, np.array(parts))


points = st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=30)


@given(points)
def test_without_noise_the_order_is_by_nondominated_rank(pairs: list[tuple[int, int]]) -> None:
    order = ranked([exact(loss, memory) for loss, memory in pairs], resolution=0.0)
    assert sorted(order) == list(range(len(pairs)))
    ranks = nondominated_ranks(pairs)
    assert [ranks[index] for index in order] == sorted(ranks)


def test_an_empty_rung_has_no_best() -> None:
    assert Rung(16, 3).best == ranked([], 0.01) == []
    assert Rung(16, 3).single_best == []


@given(points)
def test_the_best_loss_comes_first(pairs: list[tuple[int, int]]) -> None:
    first = ranked([exact(loss, memory) for loss, memory in pairs], resolution=0.0)[0]
    assert pairs[first][0] == min(loss for loss, _ in pairs)


def test_a_front_that_has_to_be_cut_stays_spread() -> None:
    front = [exact(1.0, 1000), exact(1.01, 900), exact(2.0, 300), exact(3.0, 100)]
    assert ranked(front, 0.0) == [0, 1, 2, 3]
    assert ranked(front, 0.0, 2) == [0, 3]
    assert ranked(front, 0.0, 3) == [0, 3, 2]  # not the near twin of the first


def test_memory_within_the_resolution_does_not_dominate() -> None:
    one, other, less = exact(1.0, 1005), exact(1.0, 1000), exact(1.0, 900)
    assert set(ranked([one, other, less], 0.01)[1:]) == {0, 1}
    assert ranked([one, other], 0.01) == [1, 0]  # a tie: nobody is beaten, less memory breaks it
    worse_loss = exact(1.1, 995)
    assert ranked([worse_loss, other], 0.01) == [1, 0]  # its half per cent less memory is no excuse
    assert ranked([worse_loss, other], 0.0)[0] == 1


def test_losses_closer_than_their_combined_standard_error_do_not_dominate() -> None:
    better, small = Report(1.0, 0.1, 200), Report(1.1, 0.1, 100)
    assert ranked([better, small], 0.01) == [1, 0]  # as good as can be told, and half the memory
    sure = [Report(1.0, 0.01, 200), Report(1.1, 0.01, 100)]
    assert set(ranked(sure, 0.01)) == {0, 1}
    assert ranked([*sure, Report(1.1, 0.01, 200)], 0.01)[-1] == 2


def test_example_losses_tell_apart_what_two_standard_errors_cannot() -> None:
    examples = np.linspace(1, 9, 32)
    better, worse = noisy(list(examples)), noisy(list(examples + 0.1))
    cheap = noisy(list(examples + 0.1), memory_bytes=60)
    assert better.stderr > 0.4
    assert ranked([worse, better], 0.01) == [1, 0]
    assert ranked([worse, better, cheap], 0.01)[-1] == 0
    blind = [Report(report.loss, report.stderr, report.memory_bytes) for report in (better, cheap)]
    assert ranked(blind, 0.01) == [1, 0]  # the cheap one seems as good
    assert ranked([better, cheap], 0.01) == [0, 1]  # it is not: both are on the front, best loss first


def test_circles_of_noise_end() -> None:
    random = np.random.default_rng(0)
    reports = [Report(*random.uniform([1, 0, 1], [2, 1, 2])) for _ in range(60)]
    assert sorted(ranked(reports, 0.3)) == list(range(60))


@pytest.mark.parametrize(("count", "expected"), [(1, 0), (2, 0), (3, 1), (5, 1), (6, 2), (10, 3)])
def test_one_in_eta_goes_on_rounded_down(count: int, expected: int) -> None:
    rung = Rung(16, 3, reports={f"t{n}": exact(n + 1, 100) for n in range(count)})
    assert rung.best == [f"t{n}" for n in range(expected)]
    assert rung.single_best == ["t0"]


@given(points, st.integers(1, 30))
def test_the_few_best_are_of_the_lowest_ranks(pairs: list[tuple[int, int]], count: int) -> None:
    count = min(count, len(pairs))
    ranks = nondominated_ranks(pairs)
    best = ranked([exact(loss, memory) for loss, memory in pairs], 0.0, count)
    assert len(set(best)) == count
    assert [ranks[index] for index in best] == sorted(ranks)[:count]


def test_what_is_no_better_than_no_training_comes_after_the_front() -> None:
    nothing = Report(4.0, 0.0, 1.0)
    useful, smallest, worse = exact(3.0, 500), exact(4.1, 100), exact(3.5, 600)
    assert ranked([smallest, useful, worse], 0.01)[:2] == [1, 0]
    assert ranked([smallest, useful, worse], 0.01, nothing=nothing)[0] == 1
    assert ranked([smallest, useful, worse], 0.01, 1, nothing) == [1]
    rung = Rung(16, 3)
    for name, report in (
        ("useful", useful),
        ("smallest", smallest),
        ("third", exact(4.2, 90)),
        ("fourth", exact(4.25, 85)),
        ("fifth", exact(4.28, 82)),
        ("last", exact(4.3, 80)),
    ):
        rung.add(name, report)
    assert rung.best == ["useful", "last"]
    rung.compare_with(nothing)
    assert rung.best[0] == "useful"


def test_only_the_newest_reports_count() -> None:
    rung = Rung(16, 3)
    for number in range(3 * WINDOW):
        rung.add(f"t{number}", exact(1 + number, 100))
    newest = [f"t{number}" for number in range(2 * WINDOW, 3 * WINDOW)]
    assert set(rung.best) <= set(newest)
    assert rung.best[0] == newest[0]
    assert len(rung.best) == WINDOW // 3
