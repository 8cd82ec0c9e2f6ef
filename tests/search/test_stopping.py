"""Stopping when the hypervolume stops growing."""

from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune.search import Searcher

from analysis.records import Event, TrialRecord
from search.config import StagnationSettings
from search.stopping import Stagnation, UntilStagnation


def after(volumes: list[float], trials: int | None = 3, growth: float = 0.01) -> bool:
    """Whether to stop after trials that left these hypervolumes."""
    now = SimpleNamespace(hypervolume=0.0)
    rule = Stagnation(StagnationSettings(trials=trials, growth=growth), lambda: now)  # type: ignore[arg-type,return-value]
    for number, now.hypervolume in enumerate(volumes):
        rule.listen(ended(f"t{number}"))
    return rule.has_come


def ended(trial_id: str, kind: Any = "lora", event: Any = "ended") -> Event:
    return Event(event=event, time="now", trial=TrialRecord(trial_id=trial_id, kind=kind, config={}))


@pytest.mark.parametrize(
    ("volumes", "stops"),
    [
        ([1.0, 1.0, 1.0], False),  # three trials have ended, but there is nothing before them to compare with
        ([1.0, 1.0, 1.0, 1.0], True),
        ([1.0, 1.0, 1.0, 1.02], False),
        ([1.0, 1.0, 1.0, 1.009], True),
        ([0.0, 0.0, 0.0, 0.0, 0.0], False),  # no front yet
        ([1.0, 2.0, 2.0, 2.0, 2.0], True),
    ],
)
def test_stops_when_the_last_trials_added_too_little(volumes: list[float], stops: bool) -> None:
    assert after(volumes) is stops


def test_off_unless_asked_for() -> None:
    assert not after([1.0] * 50, trials=None)


def test_only_lora_trials_count_and_a_promoted_one_counts_once() -> None:
    now = SimpleNamespace(hypervolume=1.0)
    rule = Stagnation(StagnationSettings(trials=2), lambda: now)  # type: ignore[arg-type,return-value]
    for event in (
        ended("t1"),
        ended("t1"),
        ended("b", kind="full"),
        ended("t2"),
        ended("t2", event="result"),
    ):
        rule.listen(event)
    assert not rule.has_come
    rule.listen(ended("t3"))
    assert rule.has_come


def test_the_searcher_then_finishes() -> None:
    class Sampler(Searcher):
        def suggest(self, trial_id: str) -> Any:
            return {"a": 1}

    rule = SimpleNamespace(has_come=False)
    searcher = UntilStagnation(Sampler(), rule)  # type: ignore[arg-type]
    assert searcher.suggest("x") == {"a": 1}
    rule.has_come = True
    assert searcher.suggest("x") == Searcher.FINISHED
