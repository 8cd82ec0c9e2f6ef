"""From the marks of all processes to seconds per phase."""

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

BUSY = ("load", "train", "evaluate", "report")
PHASES = ("start", *BUSY, "between", "stop")


def read_marks(folder: Path) -> list[list[dict[str, Any]]]:
    """The marks of every process that made any, in their order."""
    return [
        [json.loads(line) for line in file.read_text().splitlines()]
        for file in sorted(folder.glob("*.jsonl"))
    ]


def seconds_per_phase(
    processes: Sequence[Sequence[dict[str, Any]]], started: float, ended: float, workers: int
) -> dict[str, float]:
    """Wall seconds per phase, averaged over the workers, so that they add up to the makespan.

    ``start`` runs from the command's start to the first trial's, ``stop`` from the last mark to the command's end.
    ``load`` (base model, adapter, Trainer), ``train``, ``evaluate`` and ``report`` (saving, and waiting for Tune) are
    from the trials' marks. ``between`` is the rest: processes being started, imports, workers with nothing to do. A
    phase that a killed process left open counts as ``between``.

    >>> marks = [{"time": t, "phase": p} for t, p in ((1, "load"), (2, "train"), (8, "end"))]
    >>> seconds_per_phase([marks], 0.0, 10.0, workers=1)["train"]
    6.0
    """
    found: dict[str, float] = dict.fromkeys(PHASES, 0.0)
    times = [mark["time"] for marks in processes for mark in marks]
    if not times:
        return found | {"start": ended - started}
    spent: dict[str, float] = defaultdict(float)
    for marks in processes:
        for mark, following in pairwise(marks):
            spent[mark["phase"]] += following["time"] - mark["time"]
    found |= {phase: spent[phase] / workers for phase in BUSY}
    found |= {"start": min(times) - started, "stop": ended - max(times)}
    found["between"] = ended - started - sum(found.values())
    return found


def examples_per_trial(processes: Iterable[Sequence[dict[str, Any]]]) -> list[int]:
    """How many examples each trial trained on; a ``load`` begins a trial."""
    found: list[int] = []
    for marks in processes:
        for mark in marks:
            if mark["phase"] == "load":
                found.append(0)
            elif mark.get("examples"):
                found[-1] = max(found[-1], mark["examples"])
    return found
