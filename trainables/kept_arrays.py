"""Results kept on disk as NumPy arrays, so that the same question is not worked out twice."""

import hashlib
import os
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

T = TypeVar("T")


@lru_cache
def _code(libraries: tuple[str, ...]) -> str:
    """What results depend on beside their question: the versions of libraries, and this package's own source."""
    digest = hashlib.sha256(" ".join(f"{name} {version(name)}" for name in libraries).encode())
    for file in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def kept(
    folder: Path,
    question: str,
    libraries: tuple[str, ...],
    make: Callable[[], T],
    *,
    as_arrays: Callable[[T], Mapping[str, np.ndarray]],
    from_arrays: Callable[[Any], T],
) -> T:
    """The answer to ``question``: from ``folder``, else from ``make``. A broken file is made anew.

    It is the same as long as the question, the ``libraries`` and this package's source are. Files are readable by their
    owner alone, as they may hold a user's data, and nothing is ever unpickled.
    """
    name = hashlib.sha256(f"{_code(libraries)} {question}".encode()).hexdigest()
    file = folder / f"{name}.npz"
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return from_arrays(arrays)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        answer = make()
    with suppress(OSError):  # a cache that cannot be written only costs time
        _write(file, as_arrays(answer))
    return answer


def _write(file: Path, arrays: Mapping[str, np.ndarray]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, scratch = tempfile.mkstemp(dir=file.parent, suffix=".part")
    with os.fdopen(handle, "wb") as stream:
        np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]
    os.replace(scratch, file)
