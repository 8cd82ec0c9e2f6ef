"""Reading all examples of a data source: a file, a hub data set, or the built-in one."""

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from search.errors import InputError
from trainables.docstrings import python_docstrings
from trainables.examples import Example, RowError, check_columns, example_from_row, used_columns
from trainables.row_files import READERS, Rows
from trainables.settings import DataSettings

BUILTIN = "builtin:python-docstrings"

# Always with its owner: a bare name is more likely a mistyped file, and `datasets` would take "csv" or "text"
# for a loader of whatever lies in the current folder.
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


def read_examples(settings: DataSettings, cache_dir: Path) -> list[Example]:
    """All examples of ``settings.source``, in the source's order.

    Args:
        settings: source, column names and the hub data set's split.
        cache_dir: where the built-in data are kept once built.

    Raises:
        InputError: the source cannot be read, has no rows, or has bad ones (the first with its file, line and
            reason, and how many there are).
    """
    source = settings.source
    if source == BUILTIN:
        return python_docstrings(cache_dir)
    if source.startswith("builtin:"):
        raise InputError(f"unknown built-in data {source!r}; there is {BUILTIN}")
    path = os.path.expanduser(source)
    if os.path.exists(path):
        rows = _file_rows(Path(path), settings)
    elif _HUB_NAME.fullmatch(source) and Path(source).suffix.lower() not in READERS:
        rows = _hub_rows(settings)
    else:
        raise InputError(
            f"no such file: {source!r}; data are a {', '.join(READERS)} file,"
            f" a hub data set OWNER/NAME or {BUILTIN}"
        )
    try:
        return _examples(rows, settings)
    except OSError as error:
        raise InputError(f"cannot read {source!r}: {error.strerror or error}") from error


def _examples(rows: Iterable[tuple[str, Any]], settings: DataSettings) -> list[Example]:
    examples: list[Example] = []
    first_bad, n_bad = "", 0
    for where, row in rows:
        try:
            if isinstance(row, RowError):
                raise row
            examples.append(example_from_row(row, where, settings))
        except RowError as error:
            n_bad += 1
            first_bad = first_bad or f"{where}: {error}"
    if n_bad:
        raise InputError(f"{first_bad} ({n_bad} of {n_bad + len(examples)} rows are bad)")
    if not examples:
        raise InputError(f"{settings.source!r} has no rows")
    return examples


def _file_rows(path: Path, settings: DataSettings) -> Rows:
    if not path.is_file():
        raise InputError(
            f"{str(path)!r} is {'a folder' if path.is_dir() else 'not a regular file'}; give one data file"
        )
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise InputError(f"{str(path)!r} ends in {path.suffix!r}; allowed are {', '.join(READERS)}")
    if path.stat().st_size == 0:
        raise InputError(f"{str(path)!r} is empty")
    return reader(path, settings)


def _hub_rows(settings: DataSettings) -> Rows:
    import datasets

    name = settings.source
    _check_hub_has(name)
    try:
        table = datasets.load_dataset(name, split=settings.hub_split)
        check_columns(table.column_names, settings)
    except RowError as error:
        raise InputError(f"hub data set {name!r}: {error}") from None
    except (OSError, ValueError, RuntimeError, LookupError, datasets.exceptions.DatasetsError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise InputError(
            f"no such file: {name!r}, and as a hub data set its split {settings.hub_split!r}"
            f" cannot be loaded: {reason}"
        ) from error
    columns = table.select_columns(used_columns(table.column_names, settings)).with_format("arrow")
    rows = (row for batch in columns.iter(batch_size=1000) for row in batch.to_pylist())
    for number, row in enumerate(rows, 1):
        yield f"{name}:row {number}", row


def _check_hub_has(name: str) -> None:
    """Ask the hub once: without an answer `load_dataset` would retry for half a minute, warning each time."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HfHubHTTPError

    if constants.HF_HUB_OFFLINE:
        return  # then `datasets` looks into its cache only
    try:
        HfApi().dataset_info(name, timeout=10)
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else "an error"
        raise InputError(
            f"no such file: {name!r}, and the hub has no such data set that you may read"
            f" (it answered {status})"
        ) from error
    except OSError as error:
        raise InputError(
            f"no such file: {name!r}, and the hub cannot be reached to look for a data set of that name"
            " (HF_HUB_OFFLINE=1 uses the local cache)"
        ) from error
