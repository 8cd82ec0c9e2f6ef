import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ray import tune

from search.ray_session import configure_ray
from search.trial_errors import last_line
from search.tune_repairs import repaired

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


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


class Slow(DiesOnTakingOver):
    """Runs until it is killed."""

    def step(self) -> dict[str, Any]:
        time.sleep(100)
        return {"done": True}


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


@pytest.fixture
def own_ray(request: pytest.FixtureRequest) -> Iterator[None]:
    """Ray with the system settings of the test's parameter."""
    import ray

    configure_ray()
    ray.init(
        address="local",
        num_cpus=1,
        include_dashboard=False,
        log_to_driver=False,
        configure_logging=False,
        _system_config=request.param,
    )
    yield
    ray.shutdown()


@pytest.mark.parametrize("own_ray", [{}], indirect=True)
@pytest.mark.usefixtures("own_ray")
def test_a_worker_that_dies_between_trials_fails_none(tmp_path: Path) -> None:
    assert run_trials(DiesOnTakingOver, tmp_path, 3) == ["done"] * 3


LOW_MEMORY = {"memory_usage_threshold": 0.01, "memory_monitor_refresh_ms": 200}


@pytest.mark.parametrize("own_ray", [LOW_MEMORY], indirect=True)
@pytest.mark.usefixtures("own_ray")
def test_a_worker_that_ray_kills_for_its_memory_fails_its_trial_alone(tmp_path: Path) -> None:
    (error,) = run_trials(Slow, tmp_path, 1)
    assert "memory" in error
