"""The default sampler: what a config would add to the front, and what it learns."""

from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, create_trial

from analysis.pareto import hypervolume
from search.hypervolume_sampler import HypervolumeSampler, added_hypervolume
from search.regression import Regression
from search.showcase import Showcase

SPACE: dict[str, BaseDistribution] = {
    "learning_rate": FloatDistribution(1e-4, 1e-2, log=True),
    "rank": IntDistribution(0, 5),
    "targets": CategoricalDistribution(["mlp", "attention", "all"]),
}


def loss(params: dict[str, Any]) -> float:
    return 3 + (np.log10(params["learning_rate"]) + 3) ** 2 - 0.02 * params["rank"]


def memory(params: dict[str, Any]) -> float:
    return 1e9 * (1 + {"mlp": 0.2, "attention": 0.0, "all": 0.5}[params["targets"]] + 0.02 * params["rank"])


def trial(params: dict[str, Any]) -> FrozenTrial:
    return create_trial(params=params, distributions=SPACE, values=[loss(params), memory(params)])


def suggest(trials: list[FrozenTrial], seed: int, **options: Any) -> dict[str, Any]:
    sampler = HypervolumeSampler(SPACE, seed, **{"startup": 5, **options})
    study = optuna.create_study(
        storage=Showcase(trials), sampler=sampler, directions=["minimize", "minimize"]
    )
    return dict(study.ask(SPACE).params)


def at_random(count: int, seed: int = 0) -> list[FrozenTrial]:
    return [trial(suggest([], seed * 1000 + number)) for number in range(count)]


@pytest.mark.parametrize("seed", range(5))
def test_what_a_point_adds_is_the_difference_of_hypervolumes(seed: int) -> None:
    random = np.random.default_rng(seed)
    points, new = random.uniform(size=(7, 2)), random.uniform(0, 1.2, size=(20, 2))
    reference = (0.9, 0.8)
    expected = [
        hypervolume([*points.tolist(), each], reference) - hypervolume(points.tolist(), reference)
        for each in new.tolist()
    ]
    assert added_hypervolume(points, reference, new[:, 0], new[:, 1]) == pytest.approx(expected, abs=1e-12)


def test_nothing_beyond_the_reference_adds_anything_and_an_empty_front_all() -> None:
    none = np.zeros((0, 2))
    added = added_hypervolume(none, (2.0, 2.0), np.array([1.0, 1.0, 3.0]), np.array([1.0, 3.0, 1.0]))
    assert added.tolist() == [1.0, 0.0, 0.0]


def test_it_learns_the_learning_rate_and_keeps_the_front_in_view() -> None:
    known = at_random(20)
    found = [suggest(known, seed) for seed in range(20)]
    away = [abs(np.log10(each["learning_rate"]) + 3) for each in found]
    random_away = [abs(np.log10(each.params["learning_rate"]) + 3) for each in known]
    assert np.median(away) < 0.4 * np.median(random_away)
    assert sum(each["targets"] == "attention" for each in found) > 10  # least memory, and no worse
    assert len({str(each) for each in found}) == 20


def test_until_enough_has_ended_it_is_random() -> None:
    rates = [suggest(at_random(4), seed)["learning_rate"] for seed in range(200)]
    assert np.mean(np.array(rates) < 1e-3) == pytest.approx(0.5, abs=0.12)


def test_a_seed_repeats_itself() -> None:
    known = at_random(8)
    assert suggest(known, 1) == suggest(known, 1) != suggest(known, 2)


def test_over_the_memory_budget_nothing_is_gained() -> None:
    """Where more rank is much better, and the budget allows half of the ranks."""
    known = at_random(20)
    for each in known:
        each.values = [9.0 - each.params["rank"], memory(each.params)]
    limited = [suggest(known, seed, memory_budget_bytes=1.05e9) for seed in range(20)]
    free = [suggest(known, seed) for seed in range(20)]
    assert max(map(memory, limited)) < 1.05e9 < min(map(memory, free))


def test_of_an_infeasible_trial_the_loss_is_not_believed() -> None:
    known = at_random(24)
    for each in known:
        if each.params["learning_rate"] < 4e-4:
            each.set_constraint("memory over budget", 0.5)
            each.values = [0.1, each.values[1]]
    found = [suggest(known, seed) for seed in range(20)]
    assert sum(each["learning_rate"] < 4e-4 for each in found) <= 2


def test_a_running_trial_is_believed_to_turn_out_as_expected() -> None:
    x = np.linspace(0, 1, 8)[:, None]
    process = Regression(x, np.sin(3 * x[:, 0]))
    place = np.array([[0.43]])
    mean, deviation = process.predict(place)
    believed_mean, believed_deviation = process.believing(place).predict(place)
    assert believed_mean == pytest.approx(mean, abs=1e-3)
    assert believed_deviation < deviation
    assert process.believing(np.zeros((0, 1))) is process


def test_a_regression_of_noise_is_its_mean_and_its_spread() -> None:
    random = np.random.default_rng(0)
    process = Regression(random.uniform(size=(60, 2)), 10 + random.normal(size=60))
    mean, deviation = process.predict(random.uniform(size=(50, 2)))
    assert mean == pytest.approx(np.full(50, 10.0), abs=0.6)
    assert deviation == pytest.approx(np.ones(50), abs=0.3)
