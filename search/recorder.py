"""From Ray Tune's callbacks to the journal: what each trial measured, and how it ended."""

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray.tune import Callback, Stopper

from analysis.records import Base, RungResult, TrialRecord
from search.errors import StorageError
from search.journal import Journal
from search.storage_errors import storage_problem
from search.trial_errors import describe_failure, error_text
from trainables.settings import TrialSpec

_RESULT_FIELDS = (
    "eval_loss", "eval_loss_stderr", "peak_memory_bytes", "memory_source", "examples_seen", "train_seconds",
    "tokens_per_second", "trainable_parameters",
)  # fmt: skip
# Only where they are known: some devices have them, and some trials are asked for them.
_EXTRA = (
    "peak_operator", "reserved_memory_bytes", "outside_allocator_bytes",
    "test_loss", "test_loss_stderr", "test_example_losses",
)  # fmt: skip
_BASE_FIELDS = (
    "eval_loss", "eval_loss_stderr", "example_losses", "test_loss", "test_loss_stderr", "test_example_losses",
)  # fmt: skip


def new_record(spec: TrialSpec, predicted_memory_bytes: int) -> TrialRecord:
    """The record of a trial about to start."""
    return TrialRecord(
        trial_id=spec.trial_id,
        kind="replicate" if spec.replicate_of else spec.kind,
        replicate_of=spec.replicate_of,
        config=spec.config.model_dump(mode="json") | {"target_modules": list(spec.target_modules)},
        predicted_memory_bytes=predicted_memory_bytes,
        seed=spec.seed,
    )


class FailureStopper(Stopper):
    """Ends the sweep when the first trials all fail for one reason: the environment is broken, not the config."""

    def __init__(self, limit: int = 3) -> None:
        self._limit = limit
        self._reasons: Counter[str] = Counter()
        self._any_success = False
        self.interrupted_by: str | None = None

    def __deepcopy__(self, memo: Any) -> "FailureStopper":
        return self

    def note(self, *, reason: str | None) -> None:
        """Take note of a trial that reached a rung (None) or failed."""
        if reason is None:
            self._any_success = True
        else:
            self._reasons[reason] += 1
            if not self._any_success and self._reasons[reason] >= self._limit:
                self.interrupted_by = reason

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Never stops a single trial."""
        return False

    def stop_all(self) -> bool:
        """Whether the sweep has to end."""
        return self.interrupted_by is not None


class Recorder(Callback):
    """Writes every trial event into the journal. Lives in the driver; Tune may pickle it, but never uses the copy.

    Args:
        journal: to write into.
        stopper: is told of successes and failures.
        predict: a trial's predicted peak bytes.
        is_paused: whether the scheduler has paused a Tune trial.
        why_killed: the reason, if this sweep itself has killed a Tune trial's worker.
    """

    def __init__(
        self,
        journal: Journal,
        stopper: FailureStopper,
        predict: Callable[[TrialSpec], int],
        is_paused: Callable[[Any], bool] = lambda trial: False,
        why_killed: Callable[[Any], str | None] = lambda trial: None,
    ) -> None:
        self._journal, self._stopper, self._predict = journal, stopper, predict
        self._is_paused, self._why_killed = is_paused, why_killed

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __deepcopy__(self, memo: Any) -> "Recorder":
        return self

    def _record(self, trial: Any) -> TrialRecord:
        spec = TrialSpec.model_validate(trial.config["spec"])
        known = self._journal.trials.get(spec.trial_id)
        return known or new_record(
            spec, self._predict(spec)
        )  # a worker that fails to start is known by nobody

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial got its worker (also again after a pause or a failure, which is no news)."""
        spec = TrialSpec.model_validate(trial.config["spec"])
        known = self._journal.trials.get(spec.trial_id)
        if known is None:
            self._journal.trial("started", new_record(spec, self._predict(spec)))
        elif known.status != "running":
            self._journal.trial("started", known.model_copy(update={"status": "running", "error": None}))

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """A trial reached a rung."""
        if "failure" in result:
            return
        record = self._record(trial)
        if "base_eval_loss" in result and self._journal.base is None:
            self._journal.found_base(Base(**{name: result.get(f"base_{name}") for name in _BASE_FIELDS}))
        rung = RungResult(
            **{
                name: result[name]
                for name in ("examples_seen", "eval_loss", "eval_loss_stderr", "example_losses", "train_loss")
            },
            train_seconds=result["train_seconds"],
        )
        # A trial that went on from an older checkpoint reports a rung again: the newer result replaces it.
        rungs = [r for r in record.rungs if r.examples_seen < rung.examples_seen] + [rung]
        update = {name: result.get(name) for name in _RESULT_FIELDS}
        update |= {name: result[name] for name in _EXTRA if result.get(name)}
        self._journal.trial(
            "result", TrialRecord.model_validate({**record.model_dump(), **update, "rungs": rungs})
        )
        self._stopper.note(reason=None)

    def on_trial_save(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A checkpoint is on disk."""
        record = self._record(trial)
        if trial.checkpoint is None or "failure" in (trial.last_result or {}):
            return
        path = Path(trial.checkpoint.path)
        root = self._journal.paths.root.resolve()
        relative = os.path.relpath(path, root) if path.is_relative_to(root) else str(path)
        self._journal.trial("checkpoint", record.model_copy(update={"checkpoint": relative}))
        if self._is_paused(trial):  # stopped, unless it is promoted later: it then starts again
            self._end(self._record(trial), "stopped")

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial ended: at the full resource, stopped by the scheduler, or by its own report of failure."""
        record, last = self._record(trial), trial.last_result or {}
        if "failure" in last:
            status = "infeasible" if last.get("infeasible") else "failed"
            self._end(record, status, last["failure"])
        elif last.get("finished"):
            self._end(record, "completed")
        elif last.get("done"):
            self._end(record, "stopped")
        # else: it was paused, which is recorded, or the sweep is shut down, and the trial stays resumable as `running`

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial raised, or its worker or node died: it will go on from its last rung, as often as `search.sweep` says.

        Raises:
            StorageError: the disk is the cause, which is no fault of the trial and would fail every other one, too.
        """
        self._raise_if_storage(trial)
        self._journal.trial(
            "started", self._record(trial).model_copy(update={"restarted": describe_failure(trial)})
        )

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial raised or its worker died once too often, or it was killed because it hung."""
        self._raise_if_storage(trial)
        self._end(self._record(trial), "failed", self._why_killed(trial) or describe_failure(trial))

    @staticmethod
    def _raise_if_storage(trial: Any) -> None:
        problem = storage_problem(error_text(trial))
        if problem is not None:
            raise StorageError(problem)

    def _end(self, record: TrialRecord, status: str, error: str | None = None) -> None:
        ended = record.model_copy(update={"status": status, "error": error})
        self._journal.trial("ended", ended)
        if status == "failed":
            self._stopper.note(reason=error or "unknown")
