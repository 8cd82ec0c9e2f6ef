"""Searches on functions whose fronts are known."""

import math

import numpy as np
import pytest

from analysis.pareto import front_indices, hypervolume
from tests.benchmarks.replay.ours import Maker, Setting, ours
from tests.benchmarks.replay.rivals import random_search
from tests.benchmarks.replay.simulator import Simulator
from tests.benchmarks.replay.zdt import GIB, SPACE, Zdt, unit_point

HORIZON_SECONDS = 1500.0


def config_at(*point: float) -> dict[str, float]:
    config = {"rank": 8.0}
    for share, (name, dimension) in zip(point, SPACE.items(), strict=True):
        low, high = dimension["low"], dimension["high"]
        config[name] = low * (high / low) ** share if "log" in dimension else low + share * (high - low)
    return config


def test_the_unit_cube_and_the_space_agree() -> None:
    assert unit_point(config_at(0.2, 0.4, 0.6, 0.8, 1.0)) == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])


@pytest.mark.parametrize(
    ("number", "loss"), [(1, 0.5), (2, 0.9375), (3, 0.5 - 0.25 * math.sin(2.5 * math.pi))]
)
def test_known_values(number: int, loss: float) -> None:
    """At x1 = 1/4 on the front, from the paper's formulas."""
    zdt = Zdt(number)
    assert zdt.final(config_at(0.25, 0, 0, 0, 0)) == pytest.approx((loss, 1.25 * GIB))
    assert zdt.final(config_at(0.25, 0, 0, 0.1, 0))[0] > loss


@pytest.mark.parametrize("number", [1, 2, 3])
def test_nothing_dominates_the_known_front(number: int) -> None:
    zdt, random = Zdt(number), np.random.default_rng(0)
    points = [zdt.final(config_at(*random.uniform(size=5))) for _ in range(300)]
    assert hypervolume([points[i] for i in front_indices(points)], zdt.reference) < zdt.hypervolume


def test_curves_end_at_the_function_up_to_noise_and_repeat() -> None:
    config = config_at(0.5, 0.1, 0.1, 0.1, 0.1)
    _, row = Zdt(1).answer(config)
    losses = [rung.eval_loss for rung in row.rungs]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] == pytest.approx(Zdt(1).final(config)[0], abs=0.1)
    assert Zdt(1).answer(config) == (0, row)


def share_found(number: int, maker: Maker, seed: int) -> float:
    zdt = Zdt(number)
    searcher, scheduler = maker(Setting(zdt, seed, 2))  # type: ignore[arg-type]
    run = Simulator(zdt, searcher, scheduler, 2, horizon=HORIZON_SECONDS).run()  # type: ignore[arg-type]
    return hypervolume([done.point for done in run.completions], zdt.reference) / zdt.hypervolume


@pytest.mark.timeout(900)
@pytest.mark.parametrize("number", [1, 2, 3])
def test_our_worst_search_is_better_than_the_best_random_one(number: int) -> None:
    found = [share_found(number, ours(), seed) for seed in range(2)]
    assert min(found) > max(share_found(number, random_search, seed) for seed in range(2))
