import os
import signal
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
from ray import tune
from ray.air.execution._internal.tracked_actor import TrackedActor
from ray.air.execution._internal.tracked_actor_task import TrackedActorTask
from ray.exceptions import OutOfMemoryError, RayActorError

from search.ray_session import configure_ray
from search.trial_errors import last_line
from search.tune_repairs import RepairedActorManager, repaired

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


class DiesOnTakingOver(tune.Trainable):
    """One worker for all trials, which dies when it is to take the second one; later workers do not."""

    def setup(self, config: dict[str, Any]) -> None:
        pass

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        died = Path(new_config["folder"]) / "died"
        if not died.exists():
            died.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return True

    def step(self) -> dict[str, Any]:
        return {"done": True}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        pass

    def load_checkpoint(self, checkpoint: Any) -> None:
        pass


def run_trials(trainable: type[tune.Trainable], folder: Path, count: int) -> list[str]:
    """How trials on one worker at a time ended."""
    tuner = tune.Tuner(
        tune.with_resources(trainable, {"CPU": 1}),
        param_space={"folder": str(folder)},
        tune_config=tune.TuneConfig(num_samples=count, max_concurrent_trials=1, reuse_actors=True),
        run_config=tune.RunConfig(
            storage_path=str(folder), verbose=0, failure_config=tune.FailureConfig(max_failures=1)
        ),
    )
    with repaired():
        return [last_line(str(result.error)) if result.error else "done" for result in tuner.fit()]


def test_a_worker_that_dies_between_trials_fails_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # Ray is imported already, and reads it only once
    configure_ray()
    ray.init(
        address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, configure_logging=False
    )
    try:
        assert run_trials(DiesOnTakingOver, tmp_path, 3) == ["done"] * 3
    finally:
        ray.shutdown()


def test_a_worker_that_ray_kills_for_its_memory_is_a_dead_worker() -> None:
    told: list[Exception] = []
    actor = TrackedActor(1, on_error=lambda _, error: told.append(error))
    task = TrackedActorTask(actor, on_error=lambda _, error: told.append(error))
    manager = RepairedActorManager(resource_manager=MagicMock())
    manager._live_actors_to_ray_actors_resources[actor] = (None, None)
    manager._actor_task_failed(task, OutOfMemoryError("the node running low on memory"))
    assert [type(error) for error in told] == [RayActorError] * 2
    assert "low on memory" in str(told[0])
