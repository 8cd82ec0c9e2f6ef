"""The run folder's durable truth: what happened to every trial, appended to trials.jsonl as it happens."""

import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from analysis.front import build_front, reference_point, sweep_facts, write_front
from analysis.records import Base, Event, Front, RunPaths, TrialRecord
from analysis.results import latest_trials, read_events

# front.json is written anew when a trial completes. Once that takes longer than `FRONT_SECONDS` (from about 1,000 trials
# on), it is put off until no more than `FRONT_SHARE` of the time goes into it: it holds every trial, so that writing it
# each time would take time with the square of their number.
FRONT_SECONDS, FRONT_SHARE = 0.1, 0.05


def now() -> str:
    """The time as ISO 8601 in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


class Journal:
    """Appends events, keeps every trial's newest record, and rewrites front.json when a trial completes, or soon after.

    A line is on disk (fsync) before the call returns. Of a line that does not fit there nothing stays, and one torn by a
    kill is cut off when the journal is opened again, so that it can never swallow the next one.
    """

    def __init__(self, paths: RunPaths, *, name: str, size: str) -> None:
        self.paths, self._name, self._size = paths, name, size
        self.events: list[Event] = read_events(paths.trials_jsonl) if paths.trials_jsonl.exists() else []
        self.trials: dict[str, TrialRecord] = latest_trials(self.events)
        self._end_torn_line(paths.trials_jsonl)
        self._file = paths.trials_jsonl.open("ab", buffering=0)
        self.listeners: list[Callable[[Event], None]] = []
        self._front_is_old, self._next_front = False, 0.0
        # What is added to a completed trial's record before it is written.
        self.complete: Callable[[TrialRecord], TrialRecord] = lambda record: record

    @staticmethod
    def _end_torn_line(path: Path) -> None:
        """Cut off what a kill left of a half-written last line."""
        if not path.exists():
            return
        with path.open("rb+") as file:
            content = file.read()
            if content and not content.endswith(b"\n"):
                file.truncate(content.rfind(b"\n") + 1)

    @property
    def base(self) -> Base | None:
        """The untouched model's loss, once known."""
        known = [event.base for event in self.events if event.base is not None]
        return known[-1] if known else None

    def append(self, event: Event) -> None:
        """Write an event, remember it, and tell the listeners.

        Raises:
            OSError: the disk is full, read-only or gone. The file is as it was.
        """
        self._write(event.model_dump_json(exclude_none=True).encode() + b"\n")
        self.events.append(event)
        if event.trial is not None:
            self.trials[event.trial.trial_id] = event.trial
        for listener in self.listeners:
            listener(event)

    def _write(self, line: bytes) -> None:
        end = os.fstat(self._file.fileno()).st_size
        try:
            while line:  # a nearly full disk takes a part
                line = line[self._file.write(line) :]
            os.fsync(self._file.fileno())
        except OSError:
            try:
                os.ftruncate(self._file.fileno(), end)
            except OSError:
                self._file.close()  # what is torn stays the last line
            raise

    def sweep(self, facts: dict[str, Any]) -> None:
        """Note a launch, a resumption or the end of the sweep."""
        self.append(Event(event="sweep", time=now(), sweep=facts))

    def found_base(self, base: Base) -> None:
        """Note the untouched model's loss."""
        self.append(Event(event="base", time=now(), base=base))

    def trial(self, event: str, record: TrialRecord) -> None:
        """Note a trial's new state; a completed one changes the front, and any brings a front.json that was put off."""
        is_completed = event == "ended" and record.status == "completed"
        copy = (self.complete(record) if is_completed else record).model_copy(deep=True)
        self.append(Event(event=event, time=now(), trial=copy))  # type: ignore[arg-type]
        self._front_is_old |= is_completed
        if self._front_is_old and time.monotonic() >= self._next_front:
            self.write_front(finished=False)

    def front(self, *, finished: bool) -> Front:
        """The front as of now."""
        created = next((e.sweep["created"] for e in self.events if e.sweep and "created" in e.sweep), now())
        return build_front(
            name=self._name,
            size=self._size,
            created=created,
            finished=finished,
            trials=list(self.trials.values()),
            base=self.base,
            reference_point=reference_point(self.events),
            predicted_full_memory_bytes=sweep_facts(self.events).get("predicted_full_memory_bytes"),
        )

    def write_front(self, *, finished: bool) -> Front:
        """Rewrite front.json atomically."""
        began = time.monotonic()
        front = self.front(finished=finished)
        write_front(front, self.paths.front_json)
        taken, self._front_is_old = time.monotonic() - began, False
        self._next_front = began + taken / FRONT_SHARE if taken > FRONT_SECONDS else 0.0
        return front

    def close(self) -> None:
        """Close the file."""
        self._file.close()
