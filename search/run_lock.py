"""One process per run folder: two would write one journal and run every trial twice."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from search.errors import InputError

LOCK_NAME = ".lock"


@contextmanager
def locked(run_dir: Path) -> Iterator[None]:
    """Hold a run folder's lock. The system frees it when the process ends, however it ends.

    Raises:
        InputError: another process holds it, or the folder cannot be written to.
    """
    lock = FileLock(run_dir / LOCK_NAME, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise InputError(
            f"another lorafront process is working on {run_dir}: stop it or wait for it"
        ) from error
    except OSError as error:
        raise InputError(f"cannot write to run folder {run_dir}: {error.strerror}") from error
    try:
        yield
    finally:
        lock.release()
