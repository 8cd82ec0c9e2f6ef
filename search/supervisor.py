"""Watches a running sweep from inside Ray Tune's loop: interrupts, and trials that hang."""

import time
from typing import Any

import ray
from ray.tune import Callback

from search.interrupts import Interrupts
from search.rung_clock import RungClock
from search.units import format_duration

# How long an interrupted sweep waits for checkpoints that are being written. With what comes after, MLflow and
# the end of Ray, it stops within 15 seconds.
SAVING_SECONDS = 6.0

# How often trials are looked through for hung ones, each of which hangs for minutes before it counts as such. A large
# sweep's loop turns hundreds of times a second.
LOOK_SECONDS = 1.0


class Interrupted(Exception):  # noqa: N818 - not an error; Tune cleans up after an exception, not after KeyboardInterrupt
    """Ends Ray Tune's loop after an interrupt."""


class Supervisor(Callback):
    """A Tune callback that looks at the sweep at every turn of the loop. Lives in the driver.

    Args:
        interrupts: tells whether to stop.
        clock: tells which trial hangs. Its worker is killed, and the next trial gets a new one.
    """

    def __init__(self, interrupts: Interrupts, clock: RungClock) -> None:
        self._interrupts, self._clock = interrupts, clock
        self._killed: dict[str, str] = {}  # why, by Tune's id
        self._interrupted_at: float | None = None
        self._next_look = 0.0

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __deepcopy__(self, memo: Any) -> "Supervisor":
        return self

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Raises Interrupted once the sweep is to stop and no checkpoint is being written."""
        now = time.monotonic()
        if now >= self._next_look:
            self._next_look = now + LOOK_SECONDS
            self._kill_hung(trials)
        if not self._interrupts.requested:
            return
        self._interrupted_at = self._interrupted_at or now
        is_saving = any(trial.is_saving for trial in trials)
        if not is_saving or now - self._interrupted_at > SAVING_SECONDS:
            for trial in trials:
                kill_worker(trial)  # in the middle of a rung, of which there is nothing to keep
            raise Interrupted

    def _kill_hung(self, trials: list[Any]) -> None:
        for trial in trials:
            if trial.status != trial.RUNNING or trial.trial_id in self._killed:
                continue
            taken = self._clock.overdue_seconds(trial.trial_id)
            if taken is not None:
                self._killed[trial.trial_id] = (
                    f"hung: no result for {format_duration(taken)} (see rung_timeout)"
                )
                trial.max_failures = 0  # what hung once is not tried again
                kill_worker(trial)

    def why_killed(self, trial: Any) -> str | None:
        """Why this killed a Tune trial's worker; None if it did not."""
        return self._killed.get(trial.trial_id)

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """The time begins."""
        self._clock.start(trial.trial_id)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """A rung is reached, and the time to the next one begins."""
        self._clock.reach(trial.trial_id, result.get("examples_seen", 0))

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """No time runs while a trial waits for another worker."""
        self._clock.stop(trial.trial_id)


def kill_worker(trial: Any) -> None:
    """Kill the worker process of a Tune trial, if it has one."""
    actor = trial.temporary_state.ray_actor
    if actor is not None:
        ray.kill(actor)
