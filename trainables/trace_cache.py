"""Traces kept on disk, so that a question asked before is answered in milliseconds and without torch."""

from collections.abc import Callable
from typing import Any

import numpy as np

from trainables.kept_arrays import kept
from trainables.model_cache import cache_root
from trainables.timeline import Phase, Timeline

_LIBRARIES = ("torch", "transformers", "peft", "colossalai", "bitsandbytes")


def kept_trace(question: str, trace: Callable[[], Timeline]) -> Timeline:
    """The timeline that answers ``question``: from the cache, else from ``trace``."""
    folder = cache_root() / "traces"
    return kept(folder, question, _LIBRARIES, trace, as_arrays=_as_arrays, from_arrays=_from_arrays)


def _from_arrays(arrays: Any) -> Timeline:
    operators = tuple(arrays["operators"].tolist())
    phases = tuple(
        Phase(name, start)
        for name, start in zip(arrays["phases"].tolist(), arrays["starts"].tolist(), strict=True)
    )
    return Timeline(arrays["live"], operators, phases)


def _as_arrays(timeline: Timeline) -> dict[str, np.ndarray]:
    return {
        "live": timeline.live,
        "operators": np.array(timeline.operators),
        "phases": np.array([phase.name for phase in timeline.phases]),
        "starts": np.array([phase.start for phase in timeline.phases]),
    }
