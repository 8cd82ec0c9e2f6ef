"""When a rung may decide: how its losses predict those of the next one."""

import numpy as np
import pytest

from search.rung import Report, Rung
from search.rung_trust import tells


def rungs(here: list[float], there: list[float]) -> tuple[Rung, Rung]:
    rung, later = Rung(16, 3), Rung(48, 3)
    for number, loss in enumerate(here):
        rung.add(f"t{number}", Report(loss, 0.1, 900.0))
    for number, loss in enumerate(there):
        later.add(f"t{number}", Report(loss, 0.1, 900.0))
    return rung, later


def test_the_same_order_tells_once_five_have_shown_it() -> None:
    losses = [5.0, 4.0, 4.5, 3.0, 3.5]
    assert tells(*rungs(losses, [loss - 2 for loss in losses]))
    assert not tells(*rungs(losses[:4], [loss - 2 for loss in losses[:4]]))


def test_a_reversed_order_tells_nothing() -> None:
    losses = list(np.linspace(3, 5, 40))
    assert not tells(*rungs(losses, losses[::-1]))


def test_only_those_who_reached_both_count() -> None:
    """The first of many that went no further are in any order."""
    losses = [9.0, 1.0, 5.0, 4.0, 4.5, 3.0, 3.5]
    rung, later = rungs(losses, losses)
    del later.reports["t0"], later.reports["t1"]
    later.add("elsewhere", Report(1.0, 0.1, 900.0))
    assert tells(rung, later)
    del later.reports["t2"]
    assert not tells(rung, later)


@pytest.mark.parametrize(("correlation", "share"), [(0.2, 0.01), (0.5, 0.1), (0.95, 1.0)])
def test_how_often_chance_is_taken_for_proof(correlation: float, share: float) -> None:
    """Of 400 made-up pairs of rungs with 20 trials each. At the limit itself at most 5 % may pass, within sampling."""
    random = np.random.default_rng(0)
    here = random.normal(size=(400, 20))
    there = correlation * here + np.sqrt(1 - correlation**2) * random.normal(size=here.shape)
    told = np.mean([tells(*rungs(list(x), list(y))) for x, y in zip(here, there, strict=True)])
    assert told <= share
    assert correlation < 0.9 or told > 0.9


def test_ties_are_no_order() -> None:
    assert not tells(*rungs([3.0] * 12, list(np.linspace(3, 4, 12))))
