"""What the tracker's thread does: records written, their seconds, MLflow's calls and the database's transactions."""

import threading
import time
from collections import Counter
from typing import Any

WRITES = ("create_run", "log_batch", "set_terminated", "update_run", "set_tag", "delete_run")


class MlflowWork:
    """Watches a tracker that was started. Seconds are CPU's of its thread, and on the wall.

    Attributes:
        calls: MLflow's writing calls, by name.
        commits: transactions of a database, by the name of the thread.
        records: jobs that the tracker's thread did, each for one state of a trial.
    """

    def __init__(self, tracker: Any) -> None:
        from sqlalchemy import Engine, event

        self.calls: Counter[str] = Counter()
        self.commits: Counter[str] = Counter()
        self.records, self.cpu_seconds, self.wall_seconds = 0, 0.0, 0.0
        event.listen(Engine, "commit", lambda connection: self._count_commit())
        self._attempt, tracker._attempt = tracker._attempt, self._timed
        for name in WRITES:
            self._count(tracker._store.client, name)

    def _count_commit(self) -> None:
        self.commits[threading.current_thread().name] += 1

    def _count(self, client: Any, name: str) -> None:
        inner = getattr(client, name)

        def call(*arguments: Any, **named: Any) -> Any:
            self.calls[name] += 1
            return inner(*arguments, **named)

        setattr(client, name, call)

    def _timed(self, key: str, job: Any) -> bool:
        cpu, wall = time.thread_time(), time.perf_counter()
        done: bool = self._attempt(key, job)
        self.cpu_seconds += time.thread_time() - cpu
        self.wall_seconds += time.perf_counter() - wall
        self.records += 1
        return done
