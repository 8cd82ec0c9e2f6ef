"""A new sweep's run folder."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from analysis.files import write_atomically
from analysis.records import RunPaths
from search.config import SweepConfig
from search.errors import InputError
from search.run_lock import LOCK_NAME, locked
from search.yaml_io import dump_yaml


def exists_already(run_dir: Path) -> InputError:
    """The error that a new sweep's run folder exists."""
    return InputError(
        f"run folder {run_dir} exists already: choose another --name or --out, or lorafront resume {run_dir}"
    )


@contextmanager
def new_run_folder(config: SweepConfig, run_dir: Path) -> Iterator[RunPaths]:
    """A new run folder with its `sweep.yaml`, locked against other processes.

    Raises:
        InputError: the folder exists, or cannot be made.
    """
    try:
        run_dir.mkdir(parents=True)
    except FileExistsError as error:
        raise exists_already(run_dir) from error
    except OSError as error:
        raise _cannot_create(run_dir, error) from error
    paths = RunPaths(run_dir)
    with locked(run_dir):  # before anything in it makes it look like a run that can go on
        try:
            write_atomically(paths.sweep_yaml, dump_yaml(config.to_yaml_dict()))
        except OSError as error:
            (run_dir / LOCK_NAME).unlink(missing_ok=True)
            run_dir.rmdir()
            raise _cannot_create(run_dir, error) from error
        yield paths


def _cannot_create(run_dir: Path, error: OSError) -> InputError:
    return InputError(f"cannot create run folder {run_dir}: {error.strerror}")
