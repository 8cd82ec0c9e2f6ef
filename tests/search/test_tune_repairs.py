import json
import os
import subprocess
import sys
from pathlib import Path
from unittest.mock import MagicMock, patch

import pytest
from ray.air.execution._internal.tracked_actor import TrackedActor
from ray.air.execution._internal.tracked_actor_task import TrackedActorTask
from ray.exceptions import OutOfMemoryError, RayActorError, RayTaskError
from ray.tune.execution.tune_controller import TuneController

from search.errors import BrokenEnvironmentError, UnfitNodeError
from search.tune_repairs import RepairedActorManager, RepairedController

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


def test_a_worker_that_dies_between_trials_fails_none(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.search.dying_worker", str(tmp_path), "3"]
    environment = {**os.environ, "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1", "RAY_AUTH_MODE": "disabled"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, env=environment)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == ["done"] * 3, done.stderr
    assert (tmp_path / "died").exists()


def test_a_worker_that_ray_kills_for_its_memory_is_a_dead_worker() -> None:
    told: list[Exception] = []
    actor = TrackedActor(1, on_error=lambda _, error: told.append(error))
    task = TrackedActorTask(actor, on_error=lambda _, error: told.append(error))
    manager = RepairedActorManager(resource_manager=MagicMock())
    manager._live_actors_to_ray_actors_resources[actor] = (None, None)
    manager._actor_task_failed(task, OutOfMemoryError("the node running low on memory"))
    assert [type(error) for error in told] == [RayActorError] * 2
    assert "low on memory" in str(told[0])


@pytest.mark.parametrize(
    ("kind", "failures", "is_one_more"),
    [(UnfitNodeError, 2, True), (UnfitNodeError, 20, False), (BrokenEnvironmentError, 2, False)],
)
def test_a_node_that_lacks_something_is_no_failure_of_the_trial(
    kind: type[Exception], failures: int, is_one_more: bool
) -> None:
    trial = MagicMock(max_failures=3)
    trial.run_metadata.num_failures = failures
    cause = kind("node one lacks base model")
    text = f"Traceback (most recent call last):\nsearch.errors.{kind.__name__}: {cause}"
    with patch.object(TuneController, "_process_trial_failure") as go_on:
        controller = RepairedController.__new__(RepairedController)
        controller._process_trial_failure(trial, RayTaskError("__init__", text, cause))
    go_on.assert_called_once()
    assert trial.max_failures == 3 + is_one_more
