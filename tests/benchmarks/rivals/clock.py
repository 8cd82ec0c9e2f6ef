"""Noting when a trial enters a phase; light, so that it changes nothing it measures.

Phases: ``load`` (begins a trial), ``train``, ``evaluate``, ``report``, ``end``. Without ``$BENCHMARK_MARKS`` nothing is
noted, so that the rivals also run by themselves.
"""

import json
import os
import time

VARIABLE = "BENCHMARK_MARKS"


def mark(phase: str, examples: int | None = None) -> None:
    """The trial that this process runs enters ``phase``, after so many training examples."""
    folder = os.environ.get(VARIABLE)
    if folder is None:
        return
    line = json.dumps({"time": time.time(), "phase": phase, "examples": examples})
    with open(os.path.join(folder, f"{os.getpid()}.jsonl"), "a", encoding="utf-8") as file:
        file.write(line + "\n")
