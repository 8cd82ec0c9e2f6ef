"""What Ray Tune's own loop takes: a trainable that does nothing, as many real workers as fit, none of our callbacks.

python -m tests.benchmarks.scale.tune_loop TRIALS [WORKERS]
"""

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

RUNGS = 3


def run(trials: int, workers: int) -> dict[str, Any]:
    """A sweep of trials that report three times and write a tiny checkpoint each time; figures of the driver's thread."""
    from search.ray_session import configure_ray

    configure_ray()
    import ray
    from ray import tune

    class Nothing(tune.Trainable):
        """Reports at once."""

        def step(self) -> dict[str, Any]:
            return {"loss": 1.0, "done": self.iteration + 1 >= RUNGS}

        def save_checkpoint(self, checkpoint_dir: str) -> None:
            (Path(checkpoint_dir) / "state.json").write_text("{}")

        def load_checkpoint(self, checkpoint: Any) -> None:
            pass

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            return True

    ray.init(
        address="local",
        num_cpus=workers,
        include_dashboard=False,
        log_to_driver=False,
        _node_ip_address="127.0.0.1",
    )
    try:
        with tempfile.TemporaryDirectory(prefix="tune-loop-") as folder:
            return _fit(tune, Nothing, trials, folder) | {"workers": workers}
    finally:
        ray.shutdown()


def _fit(tune: Any, trainable: Any, trials: int, folder: str) -> dict[str, Any]:
    tuner = tune.Tuner(
        tune.with_resources(trainable, {"CPU": 1}),
        param_space={"x": tune.uniform(0.0, 1.0)},
        tune_config=tune.TuneConfig(num_samples=trials, reuse_actors=True),
        run_config=tune.RunConfig(
            name="loop",
            storage_path=folder,
            verbose=0,
            checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=1, num_to_keep=2),
        ),
    )
    wall, cpu = time.perf_counter(), time.thread_time()
    tuner.fit()
    return {
        "trials": trials,
        "driver_cpu_seconds": time.thread_time() - cpu,
        "wall_seconds": time.perf_counter() - wall,
        "files": sum(path.is_file() for path in Path(folder).rglob("*")),
        "state_bytes": sum(path.stat().st_size for path in Path(folder).rglob("experiment_state-*")),
    }


if __name__ == "__main__":
    from search.environment import disable_telemetry, quiet_libraries

    disable_telemetry()
    quiet_libraries()
    print(json.dumps(run(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 16)))
