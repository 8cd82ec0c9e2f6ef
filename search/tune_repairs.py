"""What Ray Tune (2.60) does wrong when a trial's worker dies: two cases, repaired by subclasses of its loop."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ray.air.execution._internal import RayActorManager
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.tune import tune
from ray.tune.execution import tune_controller
from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial


class RepairedActorManager(RayActorManager):
    """For workers that Ray kills because their node runs low on memory.

    Ray reports that as an OutOfMemoryError, which is no RayActorError, and Tune ends the whole experiment over it.
    """

    def _actor_task_failed(self, tracked_actor_task: Any, exception: Exception) -> None:
        if isinstance(exception, RayError) and not isinstance(exception, RayActorError | RayTaskError):
            exception = RayActorError(error_msg=str(exception))
        super()._actor_task_failed(tracked_actor_task, exception)


class RepairedController(TuneController):
    """For workers that die while they wait for a trial or take one over.

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
    tune.TuneController, tune_controller.RayActorManager = RepairedController, RepairedActorManager
    try:
        yield
    finally:
        tune.TuneController, tune_controller.RayActorManager = TuneController, RayActorManager
