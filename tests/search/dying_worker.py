"""Trials that share one worker, which dies once as it takes one over: prints how each of them ended, as JSON.

A program of its own, like a sweep: in a process that has been connected to Ray before, handles that are collected late
can end actors of the new connection, since Ray counts its actors anew and gives them the same identities.
"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import ray
from ray import tune

from search.trial_errors import last_line
from search.tune_repairs import repaired


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


def run_trials(folder: Path, count: int) -> list[str]:
    """How ``count`` trials, one at a time, ended."""
    tuner = tune.Tuner(
        tune.with_resources(DiesOnTakingOver, {"CPU": 1}),
        param_space={"folder": str(folder)},
        tune_config=tune.TuneConfig(num_samples=count, max_concurrent_trials=1, reuse_actors=True),
        run_config=tune.RunConfig(
            storage_path=str(folder), verbose=0, failure_config=tune.FailureConfig(max_failures=1)
        ),
    )
    with repaired():
        return [last_line(str(result.error)) if result.error else "done" for result in tuner.fit()]


if __name__ == "__main__":
    ray.init(
        address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, configure_logging=False
    )
    print(json.dumps(run_trials(Path(sys.argv[1]), int(sys.argv[2]))))
