"""Building and running the Ray Tune experiment of a sweep, and going on with one that was interrupted."""

import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from ray import tune

from analysis.front import sweep_facts
from analysis.records import Front, RunPaths, TrialRecord
from search.cluster_check import sweep_needs
from search.confirm import confirm_config, replicate_specs
from search.environment import git_commit, software_versions
from search.errors import SweepError
from search.history import is_own, trial_config, was_launched
from search.interrupts import Interrupts
from search.journal import Journal, now
from search.node_watch import watch_nodes
from search.plan import BASELINE_ID, SweepPlan
from search.prediction import full_length_bytes
from search.recorder import FailureStopper, Recorder, new_record
from search.rung_clock import RungClock
from search.searching import Searching
from search.supervisor import Interrupted, Supervisor
from search.tune_repairs import repaired
from search.units import format_memory
from search.variants import with_variants
from search.warm_start import copy_adapter, read_warm_start
from trainables.trial import LoraTrial
from trainables.worker_group import bundles

# A worker may die of what has nothing to do with its trial: a node that goes, another process that takes the memory.
# What a trial does to its worker it does again, so more would be a waste.
RESTARTS = 1

# On a cluster a trial goes on elsewhere from its last rung when its worker is gone with its node. Ray does not tell
# that from a worker that always dies, so there is an end to it.
NODE_LOSSES = 3


class Sweep:
    """One launch of a sweep: new, or a resumption. All state of an earlier launch is read from trials.jsonl.

    ``interrupted`` says afterwards that something was left to do when the user stopped it through ``interrupts``.
    """

    def __init__(self, plan: SweepPlan, paths: RunPaths, command: str, interrupts: Interrupts) -> None:
        self.plan, self.paths, self.config, self._interrupts = plan, paths, plan.config, interrupts
        self.journal = Journal(paths, name=plan.config.name, size=plan.config.size)
        self.journal.complete = partial(with_variants, plan)
        self.command = command
        facts = sweep_facts(self.journal.events)
        self.run_key = facts.get("run_key") or uuid.uuid4().hex
        self._is_searched = bool(facts.get("searched")) and not facts.get("finished")
        self.interrupted = False
        self._stopper = FailureStopper()
        self._needs = sweep_needs(plan, paths)

    def run(self, on_searched: Callable[[Front], None] = lambda front: None) -> Front:
        """Run what is left to run, on Ray, which is started; returns the front.

        ``on_searched`` gets the front before it is confirmed.

        Raises:
            SweepError: the first trials all failed for one reason.
        """
        self.journal.sweep(self._facts())
        self._start_warm()
        self._refuse_hopeless_baseline()
        with watch_nodes(self.plan.machine.cluster, self._needs):
            if not self._is_searched:
                self._search()
            if self._may_go_on:
                self._confirm(on_searched)
        self.journal.sweep({"finished": self._may_go_on, "ended": now()})
        front = self.journal.write_front(finished=self._may_go_on)
        if self._stopper.interrupted_by is not None:
            raise SweepError(f"the first trials all failed for one reason: {self._stopper.interrupted_by}")
        return front

    @property
    def _may_go_on(self) -> bool:
        return not self.interrupted and self._stopper.interrupted_by is None

    def _facts(self) -> dict[str, Any]:
        """What the journal says of this launch."""
        config, plan = self.config, self.plan
        reference = full_length_bytes(
            config, plan.architecture, config.baseline_config(), (), "full", plan.machine.device
        )
        first = {"created": now()} if not any(e.event == "sweep" for e in self.journal.events) else {}
        return first | {
            "run_key": self.run_key,
            "name": config.name,
            "size": config.size,
            "finished": False,
            **({} if self._is_searched else {"searched": False}),
            "reference_point": {"eval_loss": None, "peak_memory_bytes": reference},
            "predicted_full_memory_bytes": plan.predict_memory(plan.baseline_spec()),
            "versions": software_versions(),
            "device": plan.machine.description,
            "git_commit": git_commit(),
            "command": self.command,
            "base_model": config.base_model,
            "data": {"source": config.data.source, "fingerprint": plan.data.fingerprint, **plan.data.counts},
        }

    def _start_warm(self) -> None:
        """Take over what an earlier run found, once; what is to be tried first is noted for `Searching`."""
        if self.config.warm_start is None or "warm_start" in sweep_facts(self.journal.events):
            return
        warm = read_warm_start(self.plan)
        if warm.base is not None and self.journal.base is None:
            self.journal.found_base(warm.base)
        for trial in warm.adopted:
            if trial.trial_id not in self.journal.trials:
                self.journal.trial("ended", self._predicted_anew(copy_adapter(trial, self.paths)))
        self.journal.sweep({"warm_start": {"points": list(warm.points)}})

    def _predicted_anew(self, trial: TrialRecord) -> TrialRecord:
        """The record of an earlier sweep's trial as this version predicts it, since it will correct predictions here."""
        spec = self.plan.spec(trial.trial_id, trial_config(trial), kind=trial.kind, seed=trial.seed)
        return trial.model_copy(update={"predicted_memory_bytes": self.plan.predict_memory(spec)})

    def _refuse_hopeless_baseline(self) -> None:
        """Record full fine-tuning as infeasible, with its predicted memory, where the device cannot hold it."""
        plan = self.plan
        if not self.config.baseline.enabled or BASELINE_ID in self.journal.trials or plan.baseline_fits():
            return
        predicted = plan.predict_memory(plan.baseline_spec())
        has = format_memory(plan.machine.memory_bytes)
        reason = f"predicted {format_memory(predicted)}, and the device has {has}"
        update = {"status": "infeasible", "memory_source": "predicted", "error": reason}
        record = new_record(plan.baseline_spec(), predicted)
        self.journal.trial("ended", record.model_copy(update=update))

    def _search(self) -> None:
        """The search itself, until its budget is spent; sets ``interrupted``."""
        searching = Searching(self.plan, self.journal, self.paths)
        started = time.monotonic()
        self._fit("launch", searching.tune_config(), searching.is_paused)
        budget = self.config.time_budget
        over_time = budget is not None and time.monotonic() - started >= budget
        # One that comes when all is done is none.
        left = self._something_left(searching.why_over is not None)
        self.interrupted |= left and not over_time and self._stopper.interrupted_by is None
        if self.interrupted:
            return
        searching.close()
        why = "the time budget is spent" if over_time and left else searching.why_over
        if why is not None:
            self.journal.sweep({"search_ended": why})

    def _confirm(self, on_searched: Callable[[Front], None]) -> None:
        """Train the front's members again with new seeds; sets ``interrupted``."""
        specs = replicate_specs(self.plan, self.journal)
        new = sum(spec.trial_id not in self.journal.trials for spec in specs)
        self.journal.sweep({"searched": now(), "replicates": new})
        if not specs:
            return
        on_searched(self.journal.write_front(finished=False))
        self._fit("confirm", confirm_config(specs, self.plan.machine.workers))
        self.interrupted |= bool(replicate_specs(self.plan, self.journal))

    def _fit(
        self, name: str, tune_config: Any, is_paused: Callable[[Any], bool] = lambda trial: False
    ) -> None:
        """One run of Ray Tune, recorded in the journal."""
        launches = sum("command" in (event.sweep or {}) for event in self.journal.events)
        supervisor = Supervisor(self._interrupts, RungClock(self.config.rungs, self.config.rung_timeout))
        recorder = Recorder(
            self.journal, self._stopper, self.plan.predict_memory, is_paused, supervisor.why_killed
        )
        tuner = tune.Tuner(
            self._trainable(),
            tune_config=tune_config,
            run_config=tune.RunConfig(
                name=f"{name}-{launches:03d}",
                storage_path=str(self.paths.tune.resolve()),
                callbacks=[recorder, supervisor],
                stop=self._stopper,
                verbose=0,
                checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=1, num_to_keep=2),
                failure_config=tune.FailureConfig(max_failures=NODE_LOSSES if self._needs else RESTARTS),
            ),
        )
        alone = self.config.address is None
        with self._interrupts.heed(), repaired(on_this_machine=alone), suppress(Interrupted):
            tuner.fit()

    def _something_left(self, enough: bool) -> bool:
        trials = self.journal.trials.values()
        ended = [t for t in trials if is_own(t) and t.status != "running" and was_launched(t)]
        too_few = len(ended) < self.config.trials and not enough
        return too_few or any(trial.status == "running" for trial in trials)

    def _trainable(self) -> Any:
        machine, devices = self.plan.machine, self.config.execution.devices_per_trial
        on_gpu = machine.device == "cuda"
        trainable = tune.with_parameters(LoraTrial, data=self.plan.data, needs=self._needs)
        if devices == 1:
            return tune.with_resources(trainable, {"CPU": machine.cpus_per_device, "GPU": int(on_gpu)})
        return tune.with_resources(
            trainable, tune.PlacementGroupFactory(bundles(devices, on_gpu, machine.cpus_per_device))
        )
