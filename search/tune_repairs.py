"""What Ray Tune (2.60) does wrong when the worker of a trial dies before the trial runs."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ray.tune import tune
from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial


class RepairedController(TuneController):
    """Tune's loop, for workers that die while they wait for a trial or take one over.

    Tune notices that by the actor's and by the task's failure. It counts both against the next trial, which did nothing:
    the first puts it back into the queue, the second fails it. And it still takes the trial for one that is being taken
    over, so that it would never start.
    """

    def _trial_task_failure(self, trial: Any, exception: Exception) -> None:
        was_queued_again = trial.status == Trial.PENDING and trial not in self._trial_to_actor
        self._resetting_trials.discard(trial)
        if not was_queued_again:
            super()._trial_task_failure(trial, exception)


@contextmanager
def repaired() -> Iterator[None]:
    """Within it a `Tuner` runs the repaired loop."""
    original = tune.TuneController
    tune.TuneController = RepairedController
    try:
        yield
    finally:
        tune.TuneController = original
