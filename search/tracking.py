"""Recording a sweep in MLflow from the driver, without ever making the sweep wait.

The driver says how things stand; one background thread brings MLflow in line, in order, and tries again for
as long as the store does not answer. `search.tracking_runs` says what is written.
"""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from analysis.records import Front, TrialRecord
from search.tracking_client import describe, is_transient, redact
from search.tracking_runs import SweepRuns
from search.tracking_store import RunStore
from search.tracking_uri import local_tracking

__all__ = ["Tracker", "local_tracking", "redact"]

_logger = logging.getLogger(__name__)
_FIRST_WAIT_SECONDS = 1.0
_MOST_DOUBLINGS = 5
_TRIES_AT_THE_END = 2  # once the sweep is over, a store that does not answer is not waited for
_MAX_PROBLEMS = 10
# How long a trial's newest state waits for the next one, with which it is written as one: of a result, its checkpoint and
# what the scheduler says to it, which come within a second or so.
SETTLE_SECONDS = 1.0
# At the end of a sweep: what everybody waits at the most, and in addition for each record, of which a database file takes
# 5 to 70 ms (measured, quiet and busy).
CLOSING_SECONDS, SECONDS_PER_RECORD = 60.0, 0.1

Job = Callable[[], None]


class Tracker:
    """Records one sweep. Every call but `close` returns at once, and none raises.

    Losing the server never stops a sweep, and what happened meanwhile is written once it is back.

    Args:
        uri: address of the tracking store (see `search.tracking_uri`).
        artifact_root: folder for the artifacts of a new experiment; None: the server decides.
        experiment: the MLflow experiment, created where it is missing.
    """

    def __init__(self, uri: str, *, artifact_root: Path | None, experiment: str) -> None:
        self._uri = uri
        self._store = RunStore(uri, artifact_root, experiment)
        self._runs: SweepRuns | None = None
        # In order, with the time from which on they may be done; a newer state of a thing replaces one that waits.
        self._jobs: dict[str, tuple[float, Job]] = {}
        self._problems: dict[str, str] = {}  # by job, so that one that succeeds later takes its problem back
        self._changed = threading.Condition()
        self._closing = False
        self._failures = 0  # in a row
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)

    def start_sweep(
        self, run_key: str, name: str, params: Mapping[str, Any], tags: Mapping[str, str]
    ) -> None:
        """Begin the parent run, or go on with the one that a resumed sweep of the same ``run_key`` has.

        ``name`` is the parent run's; nested ``params`` become dotted names; trials carry ``tags`` too. Nothing is
        written before there is a trial to tell of: making the store takes seconds that the first trials' start needs.
        """
        self._runs = SweepRuns(self._store, run_key, name, dict(params), dict(tags))
        self._put("sweep", self._runs.start)

    def update(self, record: TrialRecord) -> None:
        """Take note of a trial's new state; its nested run is created the first time."""
        if self._runs:
            copy = record.model_copy(deep=True)  # the driver goes on changing its own
            self._put(f"trial {record.trial_id}", partial(self._runs.write_trial, copy), SETTLE_SECONDS)
            self._begin()

    def run_id(self, trial_id: str) -> str | None:
        """The MLflow id of a trial's run; None until the run exists."""
        return self._runs.run_id(trial_id) if self._runs else None

    def finish(self, front: Front, files: Sequence[Path], member_folders: Mapping[str, Path]) -> None:
        """Record the end: ``files`` go to the parent run, the folder of each trial to its run's ``preset/``.

        The parent becomes FINISHED, or KILLED when ``front.finished`` is False. The files are read in the
        background: keep them until `close` returns.
        """
        if not self._runs:
            return
        front = front.model_copy(deep=True)
        for trial in front.trials:
            self._put(f"front {trial.trial_id}", partial(self._runs.write_trial, trial, trial.on_front))
        for path in files:
            self._put(f"file {path}", partial(self._runs.write_artifact, path))
        for trial_id, folder in member_folders.items():
            self._put(f"preset {trial_id}", partial(self._runs.write_artifact, folder, trial_id))
        self._put("end", partial(self._runs.finish, front))

    def close(self, timeout_seconds: float | None = None) -> list[str]:
        """Write what is left, end every run that is still RUNNING as KILLED, and stop.

        Waits ``timeout_seconds`` at most (None: a minute, and longer the more is left), and far less for a store that
        does not answer. Never raises.

        Returns:
            Short lines about what could not be recorded; none when everything was, however late.
        """
        if not self._runs:
            return self._summary()
        self._begin()
        if not self._thread.is_alive():
            return self._summary()
        self._put("stop", self._runs.stop)
        with self._changed:
            self._closing = True
            self._failures = 0  # the server may be back by now: it gets its tries
            self._changed.notify()
            if timeout_seconds is None:
                timeout_seconds = CLOSING_SECONDS + SECONDS_PER_RECORD * len(self._jobs)
        self._thread.join(timeout_seconds)
        return self._summary()

    def _begin(self) -> None:
        """Start the thread, which runs once, if it has not been."""
        if self._thread.ident is None:
            self._thread.start()

    def _put(self, key: str, job: Job, delay_seconds: float = 0.0) -> None:
        with self._changed:
            when, _ = self._jobs.get(key, (time.monotonic() + delay_seconds, job))
            self._jobs[key] = when, job
            self._changed.notify()

    def _work(self) -> None:
        """The background thread: one job after the other, until closed and done, or closed and hopeless."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._jobs or self._closing)
                if not self._jobs or (self._closing and self._failures >= _TRIES_AT_THE_END):
                    return
                key, (when, _) = next(iter(self._jobs.items()))
                self._changed.wait_for(lambda: self._closing, when - time.monotonic())
                _, job = self._jobs.pop(key)
            if self._attempt(key, job):
                self._failures = 0
            else:
                self._failures += 1
                self._wait_to_retry(key, job)

    def _attempt(self, key: str, job: Job) -> bool:
        """Do a job. Returns whether that is over; otherwise it has to be tried again."""
        try:
            job()
        except Exception as error:
            _logger.debug("MLflow: %s failed", key, exc_info=True)
            self._problems[key] = describe(error)
            if self._runs:
                self._runs.forget()
            return not is_transient(error)
        self._problems.pop(key, None)
        return True

    def _wait_to_retry(self, key: str, job: Job) -> None:
        """Put a job back, at the end so that one that always fails blocks no other, and wait a while."""
        seconds = _FIRST_WAIT_SECONDS * 2 ** min(self._failures - 1, _MOST_DOUBLINGS)
        with self._changed:
            self._jobs.setdefault(key, (0.0, job))
            self._changed.wait_for(lambda: self._closing, timeout=seconds)

    def _summary(self) -> list[str]:
        with self._changed:
            problems, waiting = dict(self._problems), len(self._jobs.keys() - self._problems.keys())
        counts = Counter(problems.values())
        lines = [f"MLflow: {text}" + (f" ({n} records)" if n > 1 else "") for text, n in counts.items()]
        if len(lines) > _MAX_PROBLEMS:
            lines[_MAX_PROBLEMS:] = [f"MLflow: and {len(lines) - _MAX_PROBLEMS} other problems"]
        waiting += self._thread.is_alive()
        if waiting:
            lines.append(f"MLflow: {waiting} records were not written to {redact(self._uri)}")
        return lines
