"""A sweep as MLflow shows it: one parent run and, nested in it, one run per trial.

Everything here waits for the store; `search.tracking` does that in the background. Every method may be
repeated after a failure or in a resumed sweep: runs are found again by their tags, and what is stored is not
written again.
"""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from analysis.records import Front, Status, TrialRecord
from search.tracking_store import Point, RunStore, StoredRun, changed_points, finite_points, flatten

RUN_KEY = "lorafront.run_key"
TRIAL_ID = "lorafront.trial_id"
PARENT_ID = "mlflow.parentRunId"  # what MLflow's user interface nests by

_RUN_STATUS: dict[Status, str] = {
    "completed": "FINISHED",
    "stopped": "FINISHED",
    "infeasible": "FAILED",
    "failed": "FAILED",
    "running": "RUNNING",
}
_RUNG_METRICS = ("eval_loss", "eval_loss_stderr", "train_loss", "train_seconds")
_TRIAL_METRICS = (
    "test_loss",
    "peak_memory_bytes",
    "predicted_memory_bytes",
    "tokens_per_second",
    "trainable_parameters",
)
_MAX_ERROR_LENGTH = 1000


class SweepRuns:
    """The runs of one sweep, told apart from all others by ``run_key`` (which must hold no single quote).

    ``name`` is the parent run's, ``params`` are the sweep's settings (nested mappings become dotted names),
    and the parent and every trial carry ``tags``.
    """

    def __init__(
        self, store: RunStore, run_key: str, name: str, params: Mapping[str, Any], tags: Mapping[str, str]
    ) -> None:
        self._store, self._run_key, self._name, self._params = store, run_key, name, params
        self._tags = {**tags, RUN_KEY: run_key}
        self._parent: StoredRun | None = None
        self._had_failures = False
        self._trials: dict[str, StoredRun] = {}
        self._rungs: dict[str, set[int]] = {}  # by trial: the examples seen at the rungs that are stored

    def run_id(self, trial_id: str) -> str | None:
        """The MLflow id of a trial's run, once there is one. Asks nobody."""
        run = self._trials.get(trial_id)
        return run.run_id if run else None

    def forget(self) -> None:
        """After a failure nobody knows what arrived: the next call asks the store what it holds."""
        self._parent, self._had_failures = None, True

    def start(self) -> None:
        """Find or create the parent run and write the sweep's params and tags."""
        self._store.write(self._load(), params=flatten(self._params), tags=self._tags, status="RUNNING")

    def write_trial(self, record: TrialRecord, on_front: bool | None = None) -> None:
        """Bring a trial's run up to date with ``record``; ``on_front`` None leaves that tag alone."""
        parent = self._load()
        run = self._trials.get(record.trial_id)
        tags = {**self._tags, "status": record.status, "kind": record.kind}
        if run is None:
            # Most trials never are on the front: at the sweep's end nothing is left to say of them.
            first = tags | {TRIAL_ID: record.trial_id, PARENT_ID: parent.run_id, "on_front": "false"}
            run = self._trials[record.trial_id] = self._store.create(record.trial_id, first)
        if record.error:
            tags["error"] = record.error[:_MAX_ERROR_LENGTH]
        if on_front is not None:
            tags["on_front"] = str(on_front).lower()
        figures = {name: getattr(record, name) for name in _TRIAL_METRICS}
        rungs = self._new_rungs(run, record)
        self._store.write(
            run,
            params=flatten({**record.config, "seed": record.seed}),
            tags=tags,
            points=rungs + changed_points(run, figures, record.examples_seen),
            status=_RUN_STATUS[record.status],
        )
        self._rungs[record.trial_id].update(point.step for point in rungs)

    def write_artifact(self, path: Path, trial_id: str | None = None) -> None:
        """Store a file with the parent run, or a folder's content as ``preset/`` of a trial's run.

        Raises:
            FileNotFoundError: there is no such file, or the trial has no run.
        """
        parent = self._load()
        if not path.exists():
            raise FileNotFoundError(f"{path.name} was not there to be stored")
        if trial_id is None:
            self._store.client.log_artifact(parent.run_id, str(path))
        elif run := self._trials.get(trial_id):
            self._store.client.log_artifacts(run.run_id, str(path), artifact_path="preset")
        else:
            raise FileNotFoundError(f"trial {trial_id} has no run to store {path.name} with")

    def finish(self, front: Front) -> None:
        """End the parent run with the sweep's figures, after `write_trial` for the trials of the front.

        Their step is the number of trials, so that a sweep resumed with more trials adds a point.
        """
        parent = self._load()
        for trial_id in self._trials.keys() - {trial.trial_id for trial in front.trials}:
            self._store.write(self._trials[trial_id], tags={"on_front": "false"})  # the baseline
        counts = Counter(trial.status for trial in front.trials)
        figures: dict[str, float | None] = {f"trials_{status}": counts[status] for status in get_args(Status)}
        figures["hypervolume"] = front.hypervolume
        if front.headline:
            figures |= {
                name: getattr(front.headline, name) for name in ("retention", "memory_ratio", "speedup")
            }
        points = changed_points(parent, figures, len(front.trials))
        self._store.write(parent, points=points, status="FINISHED" if front.finished else "KILLED")

    def stop(self) -> None:
        """End as KILLED every run that is RUNNING. A resume sets those it goes on with RUNNING again."""
        if self._had_failures:  # what a hanging server did late shows only now
            self._parent = None
        for run in (self._load(), *self._trials.values()):
            if run.status == "RUNNING":
                self._store.write(run, status="KILLED")

    def _load(self) -> StoredRun:
        """The parent run. Asks the store for all runs of the sweep first, unless that is done."""
        if self._parent is None:
            by_trial: dict[str, list[StoredRun]] = {}
            for run in self._store.find(RUN_KEY, self._run_key):
                by_trial.setdefault(run.tags.get(TRIAL_ID, ""), []).append(run)
            single = {trial_id: self._only(runs) for trial_id, runs in by_trial.items()}
            self._parent = single.pop("", None) or self._store.create(self._name, self._tags)
            self._trials, self._rungs = single, {}
        return self._parent

    def _only(self, runs: list[StoredRun]) -> StoredRun:
        """One of several runs of one thing, the others deleted: a server that hung created those without being heard."""
        first, *ghosts = sorted(runs, key=lambda run: (not run.params, run.start_ms))
        for ghost in ghosts:
            self._store.delete(ghost)
        return first

    def _new_rungs(self, run: StoredRun, record: TrialRecord) -> list[Point]:
        if record.trial_id not in self._rungs and _holds_last_rung(run, record):
            self._rungs[record.trial_id] = {rung.examples_seen for rung in record.rungs}
        elif record.trial_id not in self._rungs:
            self._rungs[record.trial_id] = self._store.steps(run, "eval_loss")
        stored = self._rungs[record.trial_id]
        fresh = [rung for rung in record.rungs if rung.examples_seen not in stored]
        return [
            point
            for rung in fresh
            for point in finite_points(
                {name: getattr(rung, name) for name in _RUNG_METRICS}, rung.examples_seen
            )
        ]


def _holds_last_rung(run: StoredRun, record: TrialRecord) -> bool:
    """Whether the newest values stored are the last rung's: then the rungs before are stored, too."""
    names = ("eval_loss", "train_seconds")
    return all(run.metrics.get(n) == getattr(rung, n) for rung in record.rungs[-1:] for n in names)
