"""The driver's real parts, put together as in `search.sweep` and `search.launch`, without models or devices."""

import io
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from analysis.records import RunPaths
from search.config import SweepConfig, resolve_config
from search.fitting_sets import with_fitting_sets
from search.interrupts import Interrupts
from search.journal import Journal, now
from search.launch import _start_tracker
from search.plan import Machine, SweepPlan
from search.progress import Progress
from search.recorder import FailureStopper, Recorder
from search.rung_clock import RungClock
from search.searching import Searching
from search.supervisor import Supervisor
from search.units import GIB
from search.variants import with_variants
from search.yaml_io import dump_yaml
from tests.benchmarks.scale.stopwatch import Stopwatch
from trainables.chat import TokenizedExample
from trainables.data import PreparedData

SHORTEST, LONGEST = 16, 96  # tokens of an example of the embedded data
REFERENCE_BYTES = 4 * GIB  # above what full fine-tuning of the embedded default needs
SCHEDULER = ("on_trial_add", "on_trial_result", "choose_trial_to_run", "on_trial_complete", "on_trial_remove",
             "wants_promotion", "revive")  # fmt: skip
SAMPLER = ("sample_relative", "remember", "before_trial", "after_trial")
STORAGE = ("create_new_trial", "set_trial_param", "set_trial_state_values", "set_trial_user_attr",
           "set_trial_system_attr", "get_trial", "get_all_trials", "get_study_system_attrs",
           "get_study_user_attrs", "set_study_user_attr", "get_n_trials")  # fmt: skip
CALLBACKS = ("on_trial_start", "on_trial_result", "on_trial_save", "on_trial_complete")


def make_plan(config: SweepConfig, devices: int) -> SweepPlan:
    """A plan of the configured model without its weights, on made-up examples."""
    random = np.random.default_rng(0)
    lengths = random.integers(SHORTEST, LONGEST, config.max_examples)
    train = tuple(_example(int(length)) for length in lengths)
    data = PreparedData(train, train[:2], train[:2], 0, "made-up", {"train": len(train)})
    machine = Machine("cuda", f"{devices} x virtual device", devices, None, 80 * GIB)
    config, targets = with_fitting_sets(config, config.architecture, print)
    return SweepPlan(config, config.architecture, Path("model"), data, targets, machine)


def _example(length: int) -> TokenizedExample:
    supervised = np.arange(length) >= length // 2
    return TokenizedExample(np.zeros(length, dtype=np.int32), supervised, truncated=False)


class Driver:
    """One sweep's journal, study, scheduler, MLflow tracker and view, all watched.

    Args:
        folder: becomes a run folder.
        trials: how many LoRA trials; the sweep is the embedded default otherwise, without full fine-tuning.
        devices: how many trials run at once.
        clock: virtual seconds.
    """

    def __init__(self, folder: Path, trials: int, devices: int, clock: Callable[[], float]) -> None:
        flags = {"trials": trials, "name": "scale"}
        self.config = resolve_config(None, flags=flags, overrides=("baseline.enabled=false",))
        self.paths, self.watch = RunPaths(folder), Stopwatch()
        folder.mkdir(parents=True)
        self.paths.sweep_yaml.write_text(dump_yaml(self.config.to_yaml_dict()))
        plan = make_plan(self.config, devices)
        self.journal = Journal(self.paths, name=self.config.name, size=self.config.size)
        self.journal.complete = self.watch.timed("execution variants", partial(with_variants, plan))
        reference = {"eval_loss": None, "peak_memory_bytes": REFERENCE_BYTES}
        self.journal.sweep({"created": now(), "run_key": "scale", "reference_point": reference})
        self.tracker = _start_tracker(self.config, self.paths, "scale")
        self.searching = Searching(plan, self.journal, self.paths)
        self._listen(trials)
        self.searcher = self.searching.tune_config().search_alg
        self.callbacks = self._callbacks(plan, clock)
        self._watch()

    def _listen(self, trials: int) -> None:
        """What `search.launch` adds to the journal."""

        def track(event: Any) -> None:
            if event.trial is not None:
                event.trial.mlflow_run_id = self.tracker.run_id(event.trial.trial_id)
                self.tracker.update(event.trial)

        progress = Progress(
            Console(file=io.StringIO()),
            total_trials=trials,
            rungs=self.config.rungs,
            eta=self.config.reduction_factor,
        )
        self.journal.listeners.append(self.watch.timed("tracker's update", track))
        self.journal.listeners.append(self.watch.timed("progress view", progress.listen))

    def _callbacks(self, plan: SweepPlan, clock: Callable[[], float]) -> list[Any]:
        supervisor = Supervisor(Interrupts("", lambda: None), RungClock(self.config.rungs, None, clock))
        self.watch.over(supervisor, "supervisor", "on_step_begin", "on_trial_start", "on_trial_result")
        recorder = Recorder(
            self.journal,
            FailureStopper(),
            plan.predict_memory,
            self.searching.is_paused,
            supervisor.why_killed,
        )
        self.watch.over(recorder, "recorder", *CALLBACKS)
        return [recorder, supervisor]

    def _watch(self) -> None:
        searching, watch = self.searching, self.watch
        watch.over(searching.scheduler, "scheduler", *SCHEDULER)
        watch.over(self.searcher, "searcher", "suggest", "on_trial_result", "on_trial_complete")
        watch.over(searching._study.sampler, "sampler", *SAMPLER)
        watch.over(searching._study._storage, "study (SQLite)", *STORAGE)
        watch.over(self.journal, "journal", "append")
        watch.over(self.journal, "front.json", "write_front")
