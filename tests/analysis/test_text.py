import doctest
from types import ModuleType

import pytest

from analysis import colossalchat, text
from analysis.records import TrialRecord
from analysis.text import ordered_config, varying_keys


@pytest.mark.parametrize("module", [text, colossalchat])
def test_examples_in_the_docstrings(module: ModuleType) -> None:
    results = doctest.testmod(module)
    assert results.attempted > 0
    assert results.failed == 0


def test_the_best_known_settings_come_first() -> None:
    assert list(ordered_config({"init": 1, "targets": 2, "rank": 3, "dropout": 4})) == [
        "rank", "targets", "init", "dropout",
    ]  # fmt: skip


def test_varying_keys_are_those_that_differ_but_not_what_follows_from_another() -> None:
    def trial(**config: object) -> TrialRecord:
        return TrialRecord(trial_id="t", config=config)

    trials = [
        trial(dropout=0.0, seed=1, rank=8, targets="mlp", target_modules=["up_proj"]),
        trial(dropout=0.1, seed=1, rank=4, targets="attention", target_modules=["q_proj"]),
    ]
    assert varying_keys(trials) == ["rank", "targets", "dropout"]
    assert varying_keys([]) == []
