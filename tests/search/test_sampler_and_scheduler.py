"""Contract of the schedulers, driven the way Tune drives them, without Ray or training."""

from types import SimpleNamespace
from typing import Any

from search.pareto_asha import PastReport
from search.rung import Report
from search.scheduler import AshaOnExamples, make_scheduler


def tune_trial(number: int, kind: str = "lora") -> Any:
    return SimpleNamespace(trial_id=f"ray{number}", config={"spec": {"kind": kind}})


def test_asha_keeps_the_best_third_and_never_stops_the_baseline() -> None:
    scheduler: Any = AshaOnExamples((4, 12, 36), 3)
    decisions = []
    for number, loss in enumerate([3.0, 2.0, 4.0, 1.0, 5.0]):
        trial = tune_trial(number)
        scheduler.on_trial_add(None, trial)
        decisions.append(scheduler.on_trial_result(None, trial, {"examples_seen": 4, "eval_loss": loss}))
    assert decisions == ["CONTINUE", "CONTINUE", "STOP", "CONTINUE", "STOP"]
    baseline = tune_trial(9, "full")
    scheduler.on_trial_add(None, baseline)
    assert scheduler.on_trial_result(None, baseline, {"examples_seen": 4, "eval_loss": 99.0}) == "CONTINUE"
    scheduler.on_trial_complete(None, baseline, {"examples_seen": 36, "eval_loss": 99.0})


def test_asha_remembers_an_earlier_launch() -> None:
    found = [("t0001", 1.0), ("t0002", 1.1), ("t0003", 1.2)]
    past = [PastReport(name, 4, Report(loss, 0.0, 1), "ended") for name, loss in found]
    scheduler: Any = make_scheduler("asha", (4, 12, 36), 3, past)
    trial = tune_trial(1)
    scheduler.on_trial_add(None, trial)
    assert scheduler.on_trial_result(None, trial, {"examples_seen": 4, "eval_loss": 3.0}) == "STOP"


def test_a_failed_trial_without_loss_is_no_news_for_asha() -> None:
    scheduler: Any = AshaOnExamples((4, 12, 36), 3)
    trial = tune_trial(1)
    scheduler.on_trial_add(None, trial)
    scheduler.on_trial_complete(None, trial, {"failure": "diverged"})
    assert scheduler.debug_string()
