"""A new sweep's run folder."""

from pathlib import Path

from analysis.files import write_atomically
from analysis.records import RunPaths
from search.config import SweepConfig
from search.errors import InputError
from search.yaml_io import dump_yaml


def exists_already(run_dir: Path) -> InputError:
    """The error that a new sweep's run folder exists."""
    return InputError(
        f"run folder {run_dir} exists already: choose another --name or --out, or lorafront resume {run_dir}"
    )


def create_run_folder(config: SweepConfig, run_dir: Path) -> RunPaths:
    """A new run folder with its `sweep.yaml`.

    Raises:
        InputError: the folder exists, or cannot be made.
    """
    paths = RunPaths(run_dir)
    try:
        run_dir.mkdir(parents=True)
        write_atomically(paths.sweep_yaml, dump_yaml(config.to_yaml_dict()))
    except FileExistsError as error:
        raise exists_already(run_dir) from error
    except OSError as error:
        raise InputError(f"cannot create run folder {run_dir}: {error.strerror}") from error
    return paths
