"""A new sweep's run folder."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from analysis.files import write_atomically
from analysis.records import RunPaths
from search.config import SweepConfig
from search.errors import InputError
from search.run_lock import LOCK_NAME, locked
from search.yaml_io import dump_yaml

LEFTOVER_SECONDS = 60.0


def exists_already(run_dir: Path) -> InputError:
    """The error that a new sweep's run folder exists."""
    return InputError(
        f"run folder {run_dir} exists already: choose another --name or --out, or lorafront resume {run_dir}"
    )


def is_taken(run_dir: Path) -> bool:
    """Whether there is something in a run folder: more than what a start leaves that was killed at once."""
    if not run_dir.is_dir():
        return run_dir.exists()
    return any(not path.name.startswith(".") for path in run_dir.iterdir())


@contextmanager
def new_run_folder(config: SweepConfig, run_dir: Path) -> Iterator[RunPaths]:
    """A new run folder with its `sweep.yaml`, locked against other processes.

    Raises:
        InputError: there is something in the folder, another process works on it, or it cannot be made.
    """
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _cannot_create(run_dir, error) from error
    with locked(run_dir):
        if is_taken(run_dir):  # by one who was faster
            raise exists_already(run_dir)
        paths = RunPaths(run_dir)
        try:
            write_atomically(paths.sweep_yaml, dump_yaml(config.to_yaml_dict()))
        except OSError as error:
            (run_dir / LOCK_NAME).unlink(missing_ok=True)
            run_dir.rmdir()
            raise _cannot_create(run_dir, error) from error
        yield paths


def remove_leftovers(run_dir: Path) -> None:
    """Delete what killed processes left half-written, once it is so old that nobody is still writing it."""
    for path in run_dir.glob(".*.tmp"):
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > LEFTOVER_SECONDS:
                path.unlink()


def _cannot_create(run_dir: Path, error: OSError) -> InputError:
    return InputError(f"cannot create run folder {run_dir}: {error.strerror}")
