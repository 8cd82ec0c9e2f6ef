"""Ray Tune's controller in virtual time: real searchers and schedulers, recorded curves, no threads and no Ray cluster.

The calls and their order are those of `ray/tune/execution/tune_controller.py` (Ray 2.60): a result goes to the scheduler
unless the trial is done, then to the searcher unless the decision is STOP; `stop_trial` tells the scheduler
`on_trial_complete` of a running trial and `on_trial_remove` of any other, then the searcher. When a worker is free the
searcher is asked first, so that a new trial is PENDING, and then the scheduler chooses among it and those PAUSED.

Unlike Tune, the searcher is not asked ahead while all workers are busy (as with ``max_concurrent_trials``, but paused
trials take no place), and the scheduler chooses only when a worker is free.
"""

import heapq
from collections.abc import Callable, Iterator
from typing import Any

from ray.tune.search import Searcher

from tests.benchmarks.replay.run import (
    ERROR,
    PAUSED,
    PENDING,
    RUNNING,
    TERMINATED,
    Completion,
    Run,
    SimulatedTrial,
    settings,
    settings_id,
)
from tests.benchmarks.replay.table import CurveTable


class SearchAlgorithm:
    """The part of Tune's `SearchGenerator` that counts; schedulers reach for it through the controller."""

    def __init__(self, searcher: Any, max_trials: float) -> None:
        self.searcher, self._left, self._finished = searcher, max_trials, False

    def is_finished(self) -> bool:
        """Whether no new trial will come."""
        return self._finished or self._left <= 0

    def next_config(self, trial_id: str) -> Any:
        """A new trial's config; None when there is none now or none any more."""
        if self.is_finished():
            return None
        config = self.searcher.suggest(trial_id)
        if config == Searcher.FINISHED:
            self._finished = True
            return None
        self._left -= config is not None
        return config


class Simulator:
    """Plays the controller for one searcher and one scheduler.

    Args:
        searcher: a Ray `Searcher`; its configs are plain settings or ``{"spec": TrialSpec}``.
        scheduler: a Ray `TrialScheduler`, which gets this object as its controller.
        workers: how many trials run at once.
        horizon: virtual seconds after which everything stops.
        max_trials: how many trials are asked for at most (``num_samples``).
        crashes: whether the worker of a trial (id) dies on the way to its n-th rung; never by default.
        enough: looks at the run after every completion and says whether to end it.
    """

    make_trial: type[SimulatedTrial] = SimulatedTrial

    def __init__(
        self,
        table: CurveTable,
        searcher: Any,
        scheduler: Any,
        workers: int = 2,
        *,
        horizon: float = float("inf"),
        max_trials: float = float("inf"),
        crashes: Callable[[str, int], bool] = lambda trial_id, rung: False,
        enough: Callable[[Run], bool] = lambda run: False,
    ) -> None:
        self.table, self.searcher, self.scheduler = table, searcher, scheduler
        self.horizon, self.crashes, self.enough = horizon, crashes, enough
        self.now, self.free = 0.0, workers
        self.result = Run(workers)
        self.search_alg = SearchAlgorithm(searcher, max_trials)
        self.trial_executor = self
        self._trials: list[SimulatedTrial] = []
        self._live: dict[SimulatedTrial, None] = {}  # ordered, where Tune has a set
        self._pending: dict[SimulatedTrial, None] = {}
        self._events: list[tuple[float, int, int, SimulatedTrial]] = []
        self._counter = 0

    # What schedulers may ask of the controller.
    def get_trials(self) -> list[SimulatedTrial]:
        """All trials, in the order of their making."""
        return self._trials

    def get_live_trials(self) -> Any:
        """Trials that have not ended."""
        return self._live.keys()

    def get_trial(self, trial_id: str) -> SimulatedTrial | None:
        """The trial of that id."""
        return next((trial for trial in self._trials if trial.trial_id == trial_id), None)

    def has_resources_for_trial(self, trial: SimulatedTrial) -> bool:
        """Whether a worker is free."""
        return self.free > 0

    def stop_trial(self, trial: SimulatedTrial) -> None:
        """End a trial of any status for good."""
        if trial.is_finished():
            return
        if trial.status == RUNNING:
            self.scheduler.on_trial_complete(self, trial, dict(trial.last_result))
            self.searcher.on_trial_complete(trial.trial_id, result=dict(trial.last_result))
        else:
            self.scheduler.on_trial_remove(self, trial)
            self.searcher.on_trial_complete(trial.trial_id)
        self._set_status(trial, TERMINATED)

    request_stop_trial = stop_trial

    def pause_trial(self, trial: SimulatedTrial, should_checkpoint: bool = True) -> None:
        """Take a trial off its worker; it can go on from its last rung, what came after is lost."""
        if trial.status == RUNNING:
            self._set_status(trial, PAUSED)

    # The loop.
    def run(self) -> Run:
        """Run until nothing is left, the horizon, or `enough`."""
        while True:
            for trial in self._to_start():
                self._start(trial)
            event = self._next_event()
            if event is None or event[0] > self.horizon:
                break
            self.now, trial = event[0], event[1]
            done_before = len(self.result.completions)
            self._report(trial)
            if len(self.result.completions) > done_before and self.enough(self.result):
                break
        if not self._events:
            self.result.stranded = sum(trial.status == PAUSED for trial in self._live)
        self.result.end, self.result.trials = min(self.now, self.horizon), len(self._trials)
        return self.result

    def _next_event(self) -> tuple[float, SimulatedTrial] | None:
        while self._events:
            time, _, step, trial = heapq.heappop(self._events)
            if trial.status == RUNNING and trial.step == step:
                return time, trial
        return None

    def _to_start(self) -> Iterator[SimulatedTrial]:
        """Trials for the free workers, one by one."""
        while self.free > 0:
            if not self._pending:
                self._ask()
            chosen = self.scheduler.choose_trial_to_run(self)
            if chosen is None:  # Tune starts what is pending in any case
                chosen = next(iter(self._pending), None)
            if chosen is None:
                return
            if chosen.status not in (PENDING, PAUSED):
                raise RuntimeError(f"the scheduler chose a trial that can not be started: {chosen}")
            yield chosen

    def _ask(self) -> None:
        trial_id = f"{len(self._trials):05d}"
        config = self.search_alg.next_config(trial_id)
        if config is None:
            return
        index, row = self.table.answer(settings(config))
        trial = self.make_trial(trial_id, config, index, row)
        self._trials.append(trial)
        self._live[trial] = None
        self.scheduler.on_trial_add(self, trial)
        self._pending[trial] = None
        self.result.rows.add(index)

    def _start(self, trial: SimulatedTrial) -> None:
        """Give a trial a worker. Adapter and optimizer are made anew also where it goes on from a checkpoint."""
        self.result.resumed += trial.reached > 0
        self._set_status(trial, RUNNING)
        self._train(trial, trial.row.begin_seconds)

    def _train(self, trial: SimulatedTrial, begin_seconds: float = 0.0) -> None:
        """Put the next rung's arrival into the calendar; a failure takes only the time to begin."""
        train = evaluate = 0.0
        if trial.reached < len(trial.row.rungs):
            rung = trial.row.rungs[trial.reached]
            train, evaluate = rung.train_seconds, rung.eval_seconds
        end = self.now + begin_seconds + train + evaluate
        trial.step += 1
        trial.segment = len(self.result.segments)
        self.result.segments.append((self.now, end, train))
        self._counter += 1
        heapq.heappush(self._events, (end, self._counter, trial.step, trial))

    def _report(self, trial: SimulatedTrial) -> None:
        """One result, as the controller processes it."""
        if self.crashes(trial.trial_id, trial.reached + 1):
            self.scheduler.on_trial_error(self, trial)
            self.searcher.on_trial_complete(trial.trial_id, error=True)
            self._set_status(trial, ERROR)
            return
        result = self._next_result(trial)
        if result["done"]:
            decision = "STOP"
        else:
            decision = self.scheduler.on_trial_result(self, trial, dict(result))
        if decision == "STOP":
            result["done"] = True
        else:
            self.searcher.on_trial_result(trial.trial_id, dict(result))
        self._heard(trial, result)
        if result.get("finished"):
            self.result.completions.append(Completion(self.now, trial.row_index, trial.row.point))
        self._execute(trial, decision)

    def _heard(self, trial: SimulatedTrial, result: dict[str, Any]) -> None:
        """Searcher and scheduler know of a result, on which nothing has been done yet."""
        trial.last_result = result

    def _execute(self, trial: SimulatedTrial, decision: str) -> None:
        if trial.status != RUNNING or decision == "NOOP":
            return  # the scheduler has acted on it itself
        if decision == "STOP":
            self.stop_trial(trial)
        elif decision == "PAUSE":
            self.pause_trial(trial)
        elif decision == "CONTINUE":
            self._train(trial)
        else:
            raise RuntimeError(f"the scheduler decided {decision!r}")

    def _next_result(self, trial: SimulatedTrial) -> dict[str, Any]:
        """What `trainables.trial.LoraTrial` would report."""
        row, name = trial.row, settings_id(trial)
        common = {"trial_id": trial.trial_id, "trial": name, "time_total_s": self.now}
        if trial.reached >= len(row.rungs):
            return common | {"failure": row.failure, "infeasible": row.infeasible, "done": True}
        rung = row.rungs[trial.reached]
        trial.reached += 1
        finished = trial.reached == len(self.table.rungs)
        return common | {
            "training_iteration": trial.reached,
            "examples_seen": rung.examples_seen,
            "eval_loss": rung.eval_loss,
            "eval_loss_stderr": rung.eval_loss_stderr,
            "example_losses": rung.example_losses,
            "train_seconds": sum(r.train_seconds for r in row.rungs[: trial.reached]),
            "peak_memory_bytes": row.peak_memory_bytes,
            "memory_source": "measured",
            "trainable_parameters": row.trainable_parameters,
            "finished": finished,
            "done": finished,
        }

    def _set_status(self, trial: SimulatedTrial, status: str) -> None:
        """Move a trial, with its worker."""
        if trial.status == RUNNING:
            self.free += 1
            self._cut_segment(trial)
        self._pending.pop(trial, None)
        trial.status = status
        if status == RUNNING:
            self.free -= 1
        elif trial.is_finished():
            self._live.pop(trial, None)

    def _cut_segment(self, trial: SimulatedTrial) -> None:
        """A step that is interrupted costs only what was done of it."""
        start, end, train = self.result.segments[trial.segment]
        if end > self.now:
            share = (self.now - start) / (end - start)
            self.result.segments[trial.segment] = (start, self.now, train * share)
