"""Looking for hung trials costs a large sweep little."""

import time
from typing import Any

import pytest

import search.supervisor as supervisor_module
from search.interrupts import Interrupts
from search.rung_clock import LEAST_SECONDS, RungClock
from search.supervisor import LOOK_SECONDS, Supervisor


class Trial:
    RUNNING = "RUNNING"

    def __init__(self, trial_id: str) -> None:
        self.trial_id, self.max_failures, self.looks = trial_id, 1, 0

    @property
    def status(self) -> str:
        self.looks += 1
        return self.RUNNING


def test_a_hung_trial_is_killed_and_looked_for_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    now, killed = [0.0], []
    monkeypatch.setattr(supervisor_module.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(supervisor_module, "kill_worker", lambda trial: killed.append(trial.trial_id))
    supervisor = Supervisor(Interrupts(""), RungClock([4, 12], None, lambda: now[0]))
    trial: Any = Trial("a")
    supervisor.on_trial_start(0, [trial], trial)
    now[0] = 4.0
    supervisor.on_trial_result(0, [trial], trial, {"examples_seen": 4})
    for _ in range(50):
        supervisor.on_step_begin(0, [trial])
    assert trial.looks == 1
    now[0] += LEAST_SECONDS
    supervisor.on_step_begin(0, [trial])
    assert not killed
    now[0] += LOOK_SECONDS
    supervisor.on_step_begin(0, [trial])
    assert killed == ["a"]
    assert "hung" in (supervisor.why_killed(trial) or "")


def test_a_thousand_limits_are_asked_for_in_no_time() -> None:
    clock = RungClock([4, 12], None, lambda: 0.0)
    for number in range(5000):
        clock.start(str(number))
        clock.reach(str(number), 4)
    started = time.process_time()
    for number in range(1000):
        assert clock.overdue_seconds(str(number)) is None
    assert time.process_time() - started < 0.5  # with a sort for each it took seconds
