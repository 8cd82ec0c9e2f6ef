import os
import signal
from pathlib import Path
from typing import Any

import pytest
from ray import tune

from search.ray_session import configure_ray
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


def run_trials(folder: Path) -> list[str]:
    """The final status of three trials on one worker at a time."""
    tuner = tune.Tuner(
        tune.with_resources(DiesOnTakingOver, {"CPU": 1}),
        param_space={"folder": str(folder)},
        tune_config=tune.TuneConfig(num_samples=3, max_concurrent_trials=1, reuse_actors=True),
        run_config=tune.RunConfig(
            storage_path=str(folder), verbose=0, failure_config=tune.FailureConfig(max_failures=1)
        ),
    )
    return ["failed" if result.error else "done" for result in tuner.fit()]


def test_a_worker_that_dies_between_trials_fails_none(tmp_path: Path) -> None:
    import ray

    configure_ray()
    ray.init(
        address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, configure_logging=False
    )
    try:
        with repaired():
            assert run_trials(tmp_path) == ["done"] * 3
    finally:
        ray.shutdown()
