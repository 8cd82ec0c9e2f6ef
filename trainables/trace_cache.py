"""Traces kept on disk, so that a question asked before is answered in milliseconds and without torch."""

from collections.abc import Callable
from typing import Any

import numpy as np

from trainables.kept_arrays import kept
from trainables.lifetimes import Lifetimes
from trainables.model_cache import cache_root
from trainables.timeline import Phase

_LIBRARIES = ("torch", "transformers", "peft", "colossalai", "bitsandbytes")


def kept_trace(question: str, trace: Callable[[], Lifetimes]) -> Lifetimes:
    """The lifetimes that answer ``question``: from the cache, else from ``trace``."""
    folder = cache_root() / "traces"
    return kept(folder, question, _LIBRARIES, trace, as_arrays=_as_arrays, from_arrays=_from_arrays)


def _from_arrays(arrays: Any) -> Lifetimes:
    names = arrays["names"].tolist()
    phases = zip(arrays["phases"].tolist(), arrays["starts"].tolist(), strict=True)
    births, deaths, sizes_bytes, columns = arrays["storages"].astype(np.int64)
    return Lifetimes(
        births,
        deaths,
        sizes_bytes,
        columns,
        operators=tuple(names[index] for index in arrays["operators"].tolist()),
        phases=tuple(Phase(name, start) for name, start in phases),
    )


def _as_arrays(lifetimes: Lifetimes) -> dict[str, np.ndarray]:
    names, operators = np.unique(np.array(lifetimes.operators), return_inverse=True)
    storages = (lifetimes.births, lifetimes.deaths, lifetimes.sizes_bytes, lifetimes.columns)
    return {
        "storages": np.stack(storages),
        "names": names,
        "operators": operators,
        "phases": np.array([phase.name for phase in lifetimes.phases]),
        "starts": np.array([phase.start for phase in lifetimes.phases]),
    }
