"""Telling a full or read-only disk from a failed trial, through all the libraries that write into a run folder."""

import errno
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from search.errors import StorageError

_FULL, _QUOTA, _READ_ONLY, _DEAD = (
    "no space left",
    "disk quota used up",
    "read-only",
    "the disk does not answer",
)
_TOO_LARGE, _UNCLEAR = "files may not become that large there", "files cannot be opened"
_NUMBERS = {
    errno.ENOSPC: _FULL, errno.EDQUOT: _QUOTA, errno.EFBIG: _TOO_LARGE, errno.EROFS: _READ_ONLY, errno.EIO: _DEAD,
    errno.ESTALE: _DEAD,
}  # fmt: skip
# The system's words (strerror) and SQLite's, where a library passes on no more than the text.
_WORDS = {
    "no space left on device": _FULL,
    "database or disk is full": _FULL,
    "disk quota exceeded": _QUOTA,
    "file too large": _TOO_LARGE,
    "read-only file system": _READ_ONLY,
    "attempt to write a readonly database": _READ_ONLY,
    "disk i/o error": _DEAD,
    "stale file handle": _DEAD,
    "unable to open database file": _UNCLEAR,  # SQLite, in a folder that it cannot write to for whatever reason
}
_OWN = re.compile(r"StorageError: (.+)")  # as a remote traceback ends


def storage_problem(error: BaseException | str) -> str | None:
    """What is wrong with the disk, in a few words, if an error, a cause of it, or an error's text says that."""
    if isinstance(error, str):
        return _said_in(error)
    for cause in _chain(error):
        known = _known(cause)
        if known is not None:
            return known
    return None


def storage_stop(error: BaseException, run_dir: Path) -> StorageError | None:
    """The error that ends a sweep because it could not write, and says how to go on; None where that is not the cause."""
    denied = any(isinstance(cause, PermissionError) for cause in _chain(error))
    problem = storage_problem(error) or ("not allowed" if denied else None)
    if problem is None:
        return None
    if problem == _UNCLEAR and os.statvfs(run_dir).f_flag & os.ST_RDONLY:
        problem = _READ_ONLY
    where = f"{run_dir} or {tempfile.gettempdir()}"
    return StorageError(
        f"cannot write to {where}: {problem}. What was measured is kept; go on with: lorafront resume {run_dir}"
    )


def _known(cause: BaseException) -> str | None:
    if isinstance(cause, StorageError):
        return str(cause)
    number = cause.errno if isinstance(cause, OSError) else None
    return _NUMBERS.get(number or 0) or _said_in(str(cause))


def _said_in(text: str) -> str | None:
    own = _OWN.search(text)
    if own is not None:
        return own[1].strip()
    lower = text.lower()
    return next((problem for words, problem in _WORDS.items() if words in lower), None)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error, what it was raised from, and what was being handled when it was raised."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        cause = waiting.pop(0)
        if cause is not None and id(cause) not in seen:
            seen.add(id(cause))
            yield cause
            waiting += [cause.__cause__, cause.__context__]
