import errno
import sqlite3
from pathlib import Path

import pytest

from search.errors import StorageError
from search.storage_errors import storage_problem, storage_stop


def caused(cause: BaseException, *, explicit: bool) -> BaseException:
    """An error of another library around another one, raised from it or while it was handled."""
    try:
        try:
            raise cause
        except BaseException as error:
            raise RuntimeError("Trial task failed") from (error if explicit else None)
    except RuntimeError as outer:
        if not explicit:
            outer.__context__ = cause
        return outer


@pytest.mark.parametrize("explicit", [True, False])
@pytest.mark.parametrize(
    ("cause", "words"),
    [
        (OSError(errno.ENOSPC, "anything"), "no space left"),
        (OSError(errno.EROFS, "anything"), "read-only"),
        (sqlite3.OperationalError("database or disk is full"), "no space left"),
        (sqlite3.OperationalError("attempt to write a readonly database"), "read-only"),
        (sqlite3.OperationalError("unable to open database file"), "files cannot be opened"),
        (Exception("I/O error: No space left on device (os error 28)"), "no space left"),
        (StorageError("no space left"), "no space left"),
    ],
)
def test_a_full_or_read_only_disk_is_found_through_other_errors(
    cause: BaseException, words: str, explicit: bool, tmp_path: Path
) -> None:
    error = caused(cause, explicit=explicit)
    assert storage_problem(error) == words
    assert words in str(storage_stop(error, tmp_path))


def test_a_remote_traceback_tells() -> None:
    assert storage_problem("ray::save()\n  File x\nsearch.errors.StorageError: read-only\n") == "read-only"


@pytest.mark.parametrize(
    "error", [ValueError("no"), OSError(errno.ENOENT, "No such file"), RuntimeError("CUDA error")]
)
def test_other_errors_are_not_the_disks(error: Exception) -> None:
    assert storage_problem(error) is None
    assert storage_stop(error, Path("run")) is None


def test_a_folder_that_may_not_be_written_to_stops_a_sweep_too() -> None:
    assert "not allowed" in str(storage_stop(PermissionError(errno.EACCES, "Permission denied"), Path("run")))
