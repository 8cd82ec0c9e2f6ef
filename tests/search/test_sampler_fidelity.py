"""What samplers are shown of a study: stopped, running and infeasible trials, and no more than they can digest."""

from typing import Any

import pytest

from search.config import resolve_config
from search.fidelity import MIN_FINISHED, STRATEGIES, FinalLoss, Observation, Shown, with_lies
from search.points import shuffled_points
from search.sampler import OptunaSearcher, open_study
from search.showcase import axis_of, distributions_of, most_telling
from search.space import SearchSpace
from tests.search.test_sampler import make_spec, report, searcher, sweep

FULL = 144


def finished(number: int, at_16: float, at_end: float, memory: float = 10.0) -> Observation:
    return Observation(number, {"rank": number}, "finished", ((16, at_16), (FULL, at_end)), memory)


def stopped(number: int, loss: float, examples: int = 16, memory: float = 10.0) -> Observation:
    return Observation(number, {"rank": number}, "stopped", ((examples, loss),), memory)


FOUR = [finished(0, 5.0, 3.0), finished(1, 5.2, 3.1), finished(2, 5.4, 3.3), finished(3, 5.8, 3.4)]


def show(strategy: str, *observations: Observation) -> list[Shown]:
    return STRATEGIES[strategy].show(observations, FULL)


def test_leaving_out_shows_no_value_of_a_stopped_trial() -> None:
    *full, partly = show("leave-out", *FOUR, stopped(4, 5.1))
    assert [each.values for each in full] == [(3.0, 10.0), (3.1, 10.0), (3.3, 10.0), (3.4, 10.0)]
    assert partly.values is None
    assert not partly.running


def test_a_constraint_is_the_more_violated_the_earlier_the_stop() -> None:
    early, late, full = show("constraint", stopped(0, 5.0), stopped(1, 4.0, 48), FOUR[0])
    assert early.values == (5.0, 10.0)
    assert early.missed == pytest.approx(8 / 9)
    assert late.missed == pytest.approx(2 / 3)
    assert full.missed == 0


@pytest.mark.parametrize(
    ("at_rung", "expected"),
    [
        (5.0, 3.0),  # as the best
        (5.3, 3.2),  # halfway between the second and the third
        (4.0, 3.0),  # better than any: no better than the best ended
        (6.8, 3.9),  # worse than any by 1.0: goes on with the mean slope, 0.4 / 0.8
    ],
)
def test_a_loss_ends_as_those_of_its_rank(at_rung: float, expected: float) -> None:
    assert FinalLoss(FOUR)(stopped(9, at_rung)) == pytest.approx(expected)


def test_extrapolation_keeps_the_order_at_a_rung() -> None:
    losses = [4.0 + 0.1 * step for step in range(40)]
    ends = [FinalLoss(FOUR)(stopped(9, loss)) for loss in losses]
    assert ends == sorted(ends, key=lambda end: end or 0.0)


def test_while_too_few_have_finished_all_are_compared_at_the_first_rung() -> None:
    assert len(FOUR) == MIN_FINISHED
    silent = Observation(5, {}, "running")
    *three, twice, unknown = show("extrapolate", *FOUR[:3], stopped(4, 5.1, 48), silent)
    assert [each.values for each in three] == [(seen.rungs[0][1], seen.memory_bytes) for seen in FOUR[:3]]
    assert twice.values == (stopped(4, 5.1, 48).rungs[0][1], 10.0)
    assert unknown == Shown({}, running=True)


def test_an_unknown_rung_leaves_a_trial_out() -> None:
    assert show("extrapolate", *FOUR, stopped(4, 5.1, 48))[-1].values is None
    assert show("extrapolate", *FOUR, stopped(4, 5.1))[-1].values is not None


def test_a_trial_under_way_is_extrapolated_from_its_newest_rung() -> None:
    running = Observation(4, {}, "running", ((16, 5.2),), 7.0)
    silent = Observation(5, {}, "running")
    known, unknown = show("extrapolate", *FOUR, running, silent)[-2:]
    assert known.values == (pytest.approx(3.1), 7.0)
    assert unknown == Shown({}, running=True)
    assert with_lies([Shown({}, (1.0, 2.0)), Shown({}, (3.0, 6.0)), unknown])[-1].values == (2.0, 4.0)


@pytest.mark.parametrize("strategy", list(STRATEGIES))
def test_over_budget_is_infeasible_by_its_degree_and_never_looks_good(strategy: str) -> None:
    over = Observation(9, {}, "infeasible", (), 30.0, excess=2.0)
    last = show(strategy, *FOUR, over)[-1]
    assert last.excess == 2.0
    assert last.values == (5.8, 30.0)  # the worst loss seen anywhere
    assert show(strategy, over)[0].values is None


def test_numbers_to_choose_from_are_shown_in_their_order() -> None:
    axes = {n: axis_of(d) for n, d in distributions_of(SearchSpace(
        {"rank": [64, 8, 2], "targets": ["mlp", "all-linear"], "use_dora": [False, True], "dropout": 0.0}
    )).items()}  # fmt: skip
    assert set(axes) == {"rank", "targets", "use_dora"}  # a fixed dimension is not searched
    assert [axes["rank"].to_place(rank) for rank in (2, 8, 64)] == [0, 1, 2]
    assert [axes["rank"].to_value(place) for place in range(3)] == [2, 8, 64]
    assert axes["targets"].to_value("mlp") == "mlp"
    assert axes["use_dora"].to_place(True) is True
    assert not axes["rank"].contains(16)


def test_the_best_and_the_newest_are_remembered() -> None:
    best = [finished(number, 5.0, 3.0, memory=float(100 - number)) for number in range(3)]
    old = [finished(number, 6.0, 4.0 + number, memory=500.0) for number in range(3, 30)]
    kept = most_telling([*best, *old], STRATEGIES["extrapolate"], FULL, limit=10)
    assert len(kept) == 10
    assert 2 in kept  # the only one that no other beats
    assert {26, 27, 28, 29} <= kept


def test_what_a_sampler_is_shown_does_not_grow_with_the_study(monkeypatch: pytest.MonkeyPatch) -> None:
    from search import samplers

    monkeypatch.setitem(samplers.SHOWN_TRIALS, "tpe", 10)
    search = searcher(sweep("trials=100"))
    sizes = []
    for number in range(70):
        config = search.suggest(f"ray{number}")["spec"]["config"]
        if number % 2:  # half of them stay paused
            search.on_trial_result(f"ray{number}", report(config, 16))
        else:
            search.on_trial_complete(f"ray{number}", report(config, 144 if number % 3 == 0 else 16))
        sizes.append(len(search._study.sampler._show(search._study)))
    assert max(sizes) <= 20


def test_stopped_trials_teach_the_sampler() -> None:
    """Of configs that all stopped but four, the losses at the first rung must move suggestions to low learning rates."""

    def median_rate(strategy: str) -> float:
        config = resolve_config(None, overrides=["trials=100", "seed=3"])
        search = OptunaSearcher(
            open_study(config, None, strategy), config.search_space, make_spec, budget=config.trials
        )
        rates = []
        for number in range(60):
            point: dict[str, Any] = search.suggest(f"ray{number}")["spec"]["config"]
            rates.append(point["learning_rate"])
            loss = 3 + 100 * point["learning_rate"]
            result = {
                "eval_loss": loss + 1,
                "examples_seen": 16,
                "peak_memory_bytes": 10**9,
                "finished": False,
            }
            search.on_trial_result(f"ray{number}", result)
            if number < 4:
                result |= {"eval_loss": loss, "examples_seen": FULL, "finished": True}
            search.on_trial_complete(f"ray{number}", result)
        return sorted(rates[20:])[20]

    assert median_rate("extrapolate") < 0.6 * median_rate("leave-out")


def test_every_point_of_a_finite_space_comes_once() -> None:
    space = SearchSpace(
        {
            "rank": [2, 8, 64],
            "batch_size": {"low": 1, "high": 4},
            "dropout": {"low": 0.0, "high": 0.3, "step": 0.1},
        }
    )
    for seed in range(5):
        points = [tuple(point.items()) for point in shuffled_points(space, seed)]
        assert len(points) == len(set(points)) == space.size() == 48
        assert all(dimension.contains(dict(points[7])[name]) for name, dimension in space.dimensions.items())
