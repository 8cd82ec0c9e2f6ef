"""Traces kept on disk, so that a question asked before is answered in milliseconds and without torch."""

import hashlib
import os
import tempfile
import zipfile
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

import numpy as np

from trainables.model_cache import cache_root
from trainables.timeline import Phase, Timeline

_LIBRARIES = ("torch", "transformers", "peft", "colossalai")


@lru_cache
def code_version(*libraries: str) -> str:
    """What a result that is kept on disk depends on: these libraries, and this package's own source."""
    digest = hashlib.sha256(" ".join(f"{name} {version(name)}" for name in libraries).encode())
    for file in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def kept(question: str, trace: Callable[[], Timeline]) -> Timeline:
    """The timeline that answers ``question``: from the cache, else from ``trace``. A broken file is traced anew."""
    name = hashlib.sha256(f"{code_version(*_LIBRARIES)} {question}".encode()).hexdigest()
    file = cache_root() / "traces" / f"{name}.npz"
    try:
        return _read(file)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        timeline = trace()
    with suppress(OSError):  # a cache that cannot be written only costs time
        _write(file, timeline)
    return timeline


def _read(file: Path) -> Timeline:
    with np.load(file, allow_pickle=False) as arrays:
        operators = tuple(arrays["operators"].tolist())
        phases = tuple(
            Phase(name, start)
            for name, start in zip(arrays["phases"].tolist(), arrays["starts"].tolist(), strict=True)
        )
        return Timeline(arrays["live"], operators, phases)


def _write(file: Path, timeline: Timeline) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, scratch = tempfile.mkstemp(dir=file.parent, suffix=".part")
    with os.fdopen(handle, "wb") as stream:
        np.savez_compressed(
            stream,
            live=timeline.live,
            operators=np.array(timeline.operators),
            phases=np.array([phase.name for phase in timeline.phases]),
            starts=np.array([phase.start for phase in timeline.phases]),
        )
    os.replace(scratch, file)
