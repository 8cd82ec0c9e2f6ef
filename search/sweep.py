"""Building and running the Ray Tune experiment of a sweep, and going on with one that was interrupted."""

import time
import uuid
from pathlib import Path
from typing import Any

from analysis.files import write_atomically
from analysis.front import sweep_facts
from analysis.records import Front, RunPaths
from search.config import SweepConfig
from search.environment import git_commit, software_versions
from search.errors import InputError, SweepError
from search.history import was_launched
from search.journal import Journal, now
from search.plan import SweepPlan, predicted_bytes
from search.yaml_io import dump_yaml


def exists_already(run_dir: Path) -> InputError:
    """The error that a new sweep's run folder exists."""
    return InputError(
        f"run folder {run_dir} exists already: choose another --name or --out, or lorafront resume {run_dir}"
    )


def create_run_folder(config: SweepConfig, run_dir: Path) -> RunPaths:
    """A new run folder with its `sweep.yaml`.

    Raises:
        InputError: the folder exists, or cannot be made.
    """
    paths = RunPaths(run_dir)
    try:
        run_dir.mkdir(parents=True)
        write_atomically(paths.sweep_yaml, dump_yaml(config.to_yaml_dict()))
    except FileExistsError as error:
        raise exists_already(run_dir) from error
    except OSError as error:
        raise InputError(f"cannot create run folder {run_dir}: {error.strerror}") from error
    return paths


class Sweep:
    """One launch of a sweep: new, or a resumption. All state of an earlier launch is read from trials.jsonl."""

    def __init__(self, plan: SweepPlan, paths: RunPaths, command: str) -> None:
        self.plan, self.paths, self.config = plan, paths, plan.config
        self.journal = Journal(paths, name=plan.config.name, size=plan.config.size)
        self.command = command
        self.run_key = sweep_facts(self.journal.events).get("run_key") or uuid.uuid4().hex
        self.interrupted = False

    def run(self) -> Front:
        """Run what is left to run; returns the front.

        Raises:
            SweepError: the first trials all failed for one reason.
            BrokenEnvironmentError: Ray does not start.
        """
        self.journal.sweep(self._facts())
        stopper = self._fit()
        finished = not self.interrupted and stopper.interrupted_by is None
        self.journal.sweep({"finished": finished, "ended": now()})
        front = self.journal.write_front(finished=finished)
        if stopper.interrupted_by is not None:
            raise SweepError(f"the first trials all failed for one reason: {stopper.interrupted_by}")
        return front

    def _facts(self) -> dict[str, Any]:
        """What the journal says of this launch."""
        config, plan = self.config, self.plan
        reference = predicted_bytes(config, plan.architecture, config.baseline_config(), (), "full")
        first = {"created": now()} if not any(e.event == "sweep" for e in self.journal.events) else {}
        return first | {
            "run_key": self.run_key,
            "name": config.name,
            "size": config.size,
            "finished": False,
            "reference_point": {"eval_loss": None, "peak_memory_bytes": reference},
            "versions": software_versions(),
            "device": plan.machine.description,
            "git_commit": git_commit(),
            "command": self.command,
            "base_model": config.base_model,
            "data": {"source": config.data.source, "fingerprint": plan.data.fingerprint, **plan.data.counts},
        }

    def _fit(self) -> Any:
        from ray import tune

        from search.ray_session import start_ray
        from search.recorder import FailureStopper, Recorder
        from search.searching import Searching

        start_ray(self.plan)
        stopper = FailureStopper()
        searching = Searching(self.plan, self.journal, self.paths)
        recorder = Recorder(self.journal, stopper, self.plan.predict_memory, searching.is_paused)
        tuner = tune.Tuner(
            self._trainable(),
            tune_config=searching.tune_config(),
            run_config=tune.RunConfig(
                name=f"launch-{sum(event.event == 'sweep' for event in self.journal.events):03d}",
                storage_path=str(self.paths.tune.resolve()),
                callbacks=[recorder],
                stop=stopper,
                verbose=0,
                checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=1, num_to_keep=2),
                failure_config=tune.FailureConfig(max_failures=0),
            ),
        )
        started = time.monotonic()
        try:
            tuner.fit()
        except KeyboardInterrupt:
            self.interrupted = True
        over_time = (
            self.config.time_budget is not None and time.monotonic() - started >= self.config.time_budget
        )
        # Tune takes an interrupt itself and returns as if done: what is left to do tells.
        left = self._something_left(searching.is_over)
        self.interrupted |= left and not over_time and stopper.interrupted_by is None
        if not self.interrupted:
            searching.close()
        return stopper

    def _something_left(self, enough: bool) -> bool:
        trials = self.journal.trials.values()
        ended = [t for t in trials if t.kind == "lora" and t.status != "running" and was_launched(t)]
        too_few = len(ended) < self.config.trials and not enough
        return too_few or any(trial.status == "running" for trial in trials)

    def _trainable(self) -> Any:
        from ray import tune

        from trainables.trial import LoraTrial

        gpus = 1 if self.plan.machine.device == "cuda" else 0
        trainable = tune.with_parameters(LoraTrial, data=self.plan.data)
        return tune.with_resources(trainable, {"CPU": 1, "GPU": gpus})
