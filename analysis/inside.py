"""Names in a run folder lead to files inside it, or nowhere: the folder may come from somebody else."""

import os
from pathlib import Path

from search.errors import InputError


def is_inside(path: Path, folder: Path) -> bool:
    """Whether ``path`` lies in ``folder`` once every ``..`` and every symbolic link is followed."""
    return path.resolve().is_relative_to(folder.resolve())


def checkpoint_inside(root: Path, checkpoint: str | None) -> Path | None:
    """The folder of a checkpoint on record in the run folder ``root``; one outside of it is none."""
    if checkpoint is None or not is_inside(root / checkpoint, root):
        return None
    return root / checkpoint


def check_links(folder: Path) -> None:
    """Make sure that no symbolic link in ``folder`` leads out of it, before anything is written there.

    Raises:
        InputError: one does.
    """
    for parent, folders, files in os.walk(folder):
        for path in (Path(parent, name) for name in (*folders, *files)):
            if path.is_symlink() and not is_inside(path, folder):
                raise InputError(f"{path} is a link to {os.readlink(path)}, outside of the run folder")
