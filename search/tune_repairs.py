"""What Ray Tune (2.60) does wrong when a worker dies or is no place for a trial, repaired by subclasses of its loop."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.air.execution._internal import RayActorManager
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.tune import tune
from ray.tune.execution import tune_controller
from ray.tune.execution.class_cache import _ActorClassCache
from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial

from search.errors import UnfitNodeError

# Its room is held once it is checked, in seconds: a trial that comes back that often has nowhere else to go.
_MOST_UNFIT = 20


class RepairedActorManager(RayActorManager):
    """For workers that Ray kills because their node runs low on memory.

    Ray reports that as an OutOfMemoryError, which is no RayActorError, and Tune ends the whole experiment over it.
    """

    def _actor_task_failed(self, tracked_actor_task: Any, exception: Exception) -> None:
        if isinstance(exception, RayError) and not isinstance(exception, RayActorError | RayTaskError):
            exception = RayActorError(error_msg=str(exception))
        super()._actor_task_failed(tracked_actor_task, exception)


class RepairedController(TuneController):
    """For workers that die while they wait for a trial or take one over, and for those on nodes that lack something.

    Of the former Tune notices that by the actor's and by the task's failure. It counts both against the next trial,
    which did nothing: the first puts it back into the queue, the second fails it. And it still takes the trial for one
    that is being taken over, so that it would never start.
    """

    def _trial_task_failure(self, trial: Any, exception: Exception) -> None:
        was_queued_again = trial.status == Trial.PENDING and trial not in self._trial_to_actor
        self._resetting_trials.discard(trial)
        if not was_queued_again:
            super()._trial_task_failure(trial, exception)

    def _process_trial_failure(self, trial: Any, exception: Any) -> None:
        """A node that lacks something is no failure of the trial: `search.node_watch` has it go elsewhere."""
        if UnfitNodeError.__name__ in str(exception) and trial.run_metadata.num_failures < _MOST_UNFIT:
            trial.max_failures += 1
        super()._process_trial_failure(trial, exception)


class InheritingClasses(_ActorClassCache):
    """For workers that have the driver's environment anyway, since Ray was started by it.

    Tune gives every worker a runtime environment of a few variables, so that the processes that Ray starts at once, and
    that have imported everything by the time a trial comes, are left idle and others are started.
    """

    def get(self, trainable_cls: Any) -> Any:
        """The trainable as Ray's class of actors, registered once."""
        if trainable_cls not in self._cache:
            self._cache[trainable_cls] = ray.remote(trainable_cls)
        return self._cache[trainable_cls]


@contextmanager
def repaired(*, on_this_machine: bool = True) -> Iterator[None]:
    """Within it a `Tuner` runs the repaired loop, whose workers are on this machine alone or on a cluster's nodes."""
    tune.TuneController, tune_controller.RayActorManager = RepairedController, RepairedActorManager
    if on_this_machine:
        tune_controller._ActorClassCache = InheritingClasses
    try:
        yield
    finally:
        tune.TuneController, tune_controller.RayActorManager = TuneController, RayActorManager
        tune_controller._ActorClassCache = _ActorClassCache
