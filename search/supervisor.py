"""Watches a running sweep from inside Ray Tune's loop: interrupts, and trials that hang."""

import time
from typing import Any

import ray
from ray.tune import Callback

from search.interrupts import Interrupts

# How long an interrupted sweep waits for checkpoints that are being written. With what comes after, the report and
# the end of Ray, it stops within 15 seconds.
SAVING_SECONDS = 6.0


class Interrupted(Exception):  # noqa: N818 - not an error; Tune cleans up after an exception, not after KeyboardInterrupt
    """Ends Ray Tune's loop after an interrupt."""


class Supervisor(Callback):
    """A Tune callback that looks at the trials at every turn of the loop, ten times a second. Lives in the driver.

    Args:
        interrupts: tells whether to stop.
    """

    def __init__(self, interrupts: Interrupts) -> None:
        self._interrupts = interrupts
        self._interrupted_at: float | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __deepcopy__(self, memo: Any) -> "Supervisor":
        return self

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Raises Interrupted once the sweep is to stop and no checkpoint is being written."""
        if not self._interrupts.requested:
            return
        now = time.monotonic()
        self._interrupted_at = self._interrupted_at or now
        is_saving = any(trial.is_saving for trial in trials)
        if not is_saving or now - self._interrupted_at > SAVING_SECONDS:
            for trial in trials:
                kill_worker(trial)  # in the middle of a rung, of which there is nothing to keep
            raise Interrupted


def kill_worker(trial: Any) -> None:
    """Kill the worker process of a Tune trial, if it has one."""
    actor = trial.temporary_state.ray_actor
    if actor is not None:
        ray.kill(actor)
