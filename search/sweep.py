"""Building and running the Ray Tune experiment of a sweep, and going on with one that was interrupted."""

import logging
import os
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from analysis.files import write_atomically
from analysis.front import sweep_facts
from analysis.records import Front, RunPaths, TrialRecord
from search.config import SweepConfig
from search.environment import git_commit, software_versions
from search.errors import BrokenEnvironmentError, InputError, SweepError
from search.journal import Journal, now
from search.plan import BASELINE_ID, SweepPlan, predicted_bytes
from search.yaml_io import dump_yaml
from trainables.settings import TrialConfig, TrialSpec

if TYPE_CHECKING:
    from search.pareto_asha import PastReport


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
        raise InputError(
            f"run folder {run_dir} exists already: choose another --name or --out, or lorafront resume {run_dir}"
        ) from error
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
        self._searcher: Any = None

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

        from search.recorder import FailureStopper, Recorder

        start_ray(self.plan)
        stopper = FailureStopper()
        tune_config = self._tune_config()
        is_paused = getattr(tune_config.scheduler, "is_paused", lambda trial: False)
        recorder = Recorder(self.journal, stopper, self.plan.predict_memory, is_paused)
        tuner = tune.Tuner(
            self._trainable(),
            tune_config=tune_config,
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
        self.interrupted |= self._something_left() and not over_time and stopper.interrupted_by is None
        return stopper

    def _something_left(self) -> bool:
        trials = self.journal.trials.values()
        ended = [t for t in trials if t.kind == "lora" and t.status != "running" and _was_launched(t)]
        too_few = len(ended) < self.config.trials and not self._searcher.used_up
        return too_few or any(trial.status == "running" for trial in trials)

    def _trainable(self) -> Any:
        from ray import tune

        from trainables.trial import LoraTrial

        gpus = 1 if self.plan.machine.device == "cuda" else 0
        trainable = tune.with_parameters(LoraTrial, data=self.plan.data)
        return tune.with_resources(trainable, {"CPU": 1, "GPU": gpus})

    def _tune_config(self) -> Any:
        from ray import tune

        from search.pareto_asha import ParetoAsha
        from search.sampler import OptunaSearcher, forget_unfinished, open_study
        from search.scheduler import make_scheduler
        from search.slots import SlotSearcher

        config, plan = self.config, self.plan
        study = open_study(config, str(self.paths.optuna_db.resolve()))
        forget_unfinished(study)
        if not study.trials and config.recommended:
            study.enqueue_trial(config.search_space.restrict(config.recommended))
        done = [trial for trial in self.journal.trials.values() if trial.kind == "lora"]
        first = self._first_specs()
        left = max(0, config.trials - sum(map(_was_launched, done)))
        self._searcher = OptunaSearcher(
            study,
            config.search_space,
            plan.numbered_spec,
            first=first,
            budget=left,
            seen=[trial_config(trial) for trial in done],
            next_number=1 + max((int(t.trial_id[1:]) for t in done), default=0),
            admit=self._admit,
        )
        workers = plan.machine.concurrent
        scheduler = make_scheduler(
            config.scheduler, config.rungs, config.reduction_factor, self._past(done), workers
        )
        pauses = isinstance(scheduler, ParetoAsha)
        return tune.TuneConfig(
            search_alg=SlotSearcher(self._searcher, scheduler, self._revived) if pauses else self._searcher,
            scheduler=scheduler,
            num_samples=len(first)
            + left
            + len(done),  # the searcher ends the sweep; this is only an upper limit
            max_concurrent_trials=None if pauses else workers,
            time_budget_s=config.time_budget,
            reuse_actors=True,
            trial_name_creator=lambda trial: str(trial.config["spec"]["trial_id"]),
            trial_dirname_creator=lambda trial: str(trial.config["spec"]["trial_id"]),
        )

    def _revived(self, trial_id: str) -> TrialSpec:
        """The spec with which a trial that an earlier launch stopped goes on from its checkpoint."""
        trial = self.journal.trials[trial_id]
        return self.plan.spec(trial_id, trial_config(trial), resume_from=self._checkpoint(trial))

    def _first_specs(self) -> list[TrialSpec]:
        """The baseline, then trials that an earlier launch left unfinished, from their last checkpoints."""
        plan, known = self.plan, self.journal.trials
        need_base = self.journal.base is None
        specs = []
        baseline = known.get(BASELINE_ID)
        if self.config.baseline.enabled and (baseline is None or baseline.status == "running"):
            specs.append(plan.spec(BASELINE_ID, self.config.baseline_config(), kind="full"))
        for trial in known.values():
            if trial.kind == "lora" and trial.status == "running":
                specs.append(
                    plan.spec(trial.trial_id, trial_config(trial), resume_from=self._checkpoint(trial))
                )
        if not specs and need_base:
            return []  # the first sampled trial evaluates the base, see `SweepPlan.numbered_spec`
        return [specs[0].model_copy(update={"evaluate_base": need_base}), *specs[1:]] if specs else []

    def _checkpoint(self, trial: TrialRecord) -> str | None:
        if trial.checkpoint is None:
            return None
        folder = (self.paths.root / trial.checkpoint).resolve()
        return str(folder) if (folder / "state.json").exists() else None

    def _past(self, done: Sequence[TrialRecord]) -> list["PastReport"]:
        """What earlier launches found at the rungs, in the order of the trials."""
        from search.pareto_asha import PastReport, report_of

        reports = []
        for trial in done:
            for rung in trial.rungs:
                result = rung.model_dump() | {"peak_memory_bytes": trial.peak_memory_bytes}
                then: Literal["went on", "paused", "ended"] = "went on"
                if rung is trial.rungs[-1] and trial.status != "running":
                    then = "paused" if trial.status == "stopped" and self._checkpoint(trial) else "ended"
                reports.append(PastReport(trial.trial_id, rung.examples_seen, report_of(result), then))
        return reports

    def _admit(self, spec: TrialSpec) -> bool:
        """Keep a config that is predicted over the memory budget from being launched, and record it."""
        budget, predicted = self.config.memory_budget, self.plan.predict_memory(spec)
        if budget is None or predicted <= budget:
            return True
        from search.recorder import new_record
        from search.units import format_memory

        record = new_record(spec, predicted)
        reason = f"predicted {format_memory(predicted)}, over the budget of {format_memory(budget)}"
        update = {"status": "infeasible", "memory_source": "predicted", "error": reason}
        self.journal.trial("ended", record.model_copy(update=update))
        return False


def _was_launched(trial: TrialRecord) -> bool:
    """False for a config that was only predicted, and refused for its memory."""
    return trial.status != "infeasible" or trial.memory_source != "predicted"


def trial_config(trial: TrialRecord) -> TrialConfig:
    """The config of a recorded trial."""
    return TrialConfig.model_validate(
        {k: v for k, v in trial.config.items() if k in TrialConfig.model_fields}
    )


def start_ray(plan: SweepPlan) -> None:
    """Connect to the cluster of ``--address``, or start Ray on this machine, on loopback and without dashboard.

    Raises:
        BrokenEnvironmentError: Ray does not start or the cluster does not answer.
    """
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    os.environ.setdefault("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")  # a failed trial has no loss to report
    os.environ.setdefault("TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S", "0")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    if ray.is_initialized():
        return
    for name in ("ray", "ray.tune"):
        logging.getLogger(name).setLevel(
            logging.CRITICAL
        )  # trial errors are in the journal and on the screen
    address = plan.config.address
    try:
        if address:
            ray.init(address=address, log_to_driver=False, runtime_env={"py_modules": _packages()})
        else:
            ray.init(
                num_cpus=plan.machine.concurrent if plan.machine.device == "cpu" else None,
                include_dashboard=False,
                log_to_driver=False,
                _node_ip_address="127.0.0.1",
                configure_logging=False,
            )
    except Exception as error:
        raise BrokenEnvironmentError(
            f"Ray does not start ({str(error).splitlines()[0]}): lorafront doctor"
        ) from error


def _packages() -> list[str]:
    """The three packages' folders, which Ray ships to the cluster's nodes."""
    root = Path(__file__).resolve().parent.parent
    return [str(root / name) for name in ("search", "trainables", "analysis")]
