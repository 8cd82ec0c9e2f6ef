"""Reads a run folder: `sweep.yaml`, and the events in `trials.jsonl`, the durable truth of a sweep."""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from analysis.front import build_front, reference_point, sweep_facts
from analysis.inside import checkpoint_inside
from analysis.records import Base, Event, Front, RunPaths, TrialRecord
from search.errors import InputError
from search.yaml_io import read_yaml_mapping


@dataclass(frozen=True)
class Run:
    """A run folder in memory.

    ``config`` is the resolved sweep configuration as plain data, ``sweep`` what the ``sweep`` events say of
    the machine and software. ``front`` is built anew from the events.
    """

    paths: RunPaths
    config: dict[str, Any]
    events: list[Event]
    sweep: dict[str, Any]
    base: Base | None
    front: Front

    @property
    def full_trial(self) -> TrialRecord | None:
        """The full fine-tuning trial in whatever state, None if it was never started."""
        return next((trial for trial in latest_trials(self.events).values() if trial.kind == "full"), None)

    def section(self, name: str) -> dict[str, Any]:
        """A nested mapping of the configuration, such as ``data``; empty when there is none."""
        value = self.config.get(name)
        return value if isinstance(value, dict) else {}

    def checkpoint_dir(self, trial: TrialRecord) -> Path | None:
        """The folder of the trial's newest checkpoint; one outside of the run folder is none."""
        return checkpoint_inside(self.paths.root, trial.checkpoint)


def read_events(path: Path) -> list[Event]:
    """The events of a `trials.jsonl`, oldest first. A torn last line, left by a kill, is no event.

    Raises:
        InputError: the file cannot be read, or another line is not an event (with file and line).
    """
    try:
        *lines, rest = path.read_bytes().split(b"\n")
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    events = [
        _parse_event(line, f"{path}:{number}") for number, line in enumerate(lines, start=1) if line.strip()
    ]
    with suppress(InputError):  # a whole event ends in a newline, so the rest is empty or torn
        events.append(_parse_event(rest, f"{path}:{len(lines) + 1}"))
    return events


def latest_trials(events: Iterable[Event]) -> dict[str, TrialRecord]:
    """The newest record of each trial by its id, in order of first appearance."""
    return {event.trial.trial_id: event.trial for event in events if event.trial is not None}


def load_run(run_dir: str | Path) -> Run:
    """Read a run folder, finished or not.

    Raises:
        InputError: not a run folder, or one of its files is malformed.
    """
    paths = RunPaths(run_dir)
    if not paths.root.is_dir():
        raise InputError(f"run folder {run_dir} {'is a file' if paths.root.exists() else 'does not exist'}")
    missing = [path.name for path in (paths.sweep_yaml, paths.trials_jsonl) if not path.is_file()]
    if missing:
        raise InputError(f"{run_dir} is not a run folder: it has no {' and no '.join(missing)}")
    config, events = read_yaml_mapping(paths.sweep_yaml), read_events(paths.trials_jsonl)
    sweep = sweep_facts(events)
    base = next((event.base for event in reversed(events) if event.base is not None), None)
    front = build_front(
        name=str(sweep.get("name") or config.get("name") or paths.root.resolve().name),
        size=str(sweep.get("size") or config.get("size") or "unknown"),
        created=str(sweep.get("created") or (events[0].time if events else "")),
        finished=bool(sweep.get("finished", False)),
        trials=list(latest_trials(events).values()),
        base=base,
        reference_point=reference_point(events),
        predicted_full_memory_bytes=sweep.get("predicted_full_memory_bytes"),
    )
    return Run(paths, config, events, sweep, base, front)


def _parse_event(line: bytes, where: str) -> Event:
    try:
        return Event.model_validate_json(line)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise InputError(
            f"{where}: not a trial event: {field + ': ' if field else ''}{first['msg']}"
        ) from error
