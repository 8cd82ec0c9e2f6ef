"""The MLflow address: the local default, and its check before a sweep."""

import os
import threading
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from urllib.parse import urlsplit

from analysis.records import RunPaths
from search.errors import InputError
from search.tracking_client import describe, import_mlflow, mlflow_client, redact

CHECK_SECONDS = 10.0
_SCHEMES = ("http", "https", "sqlite", "postgresql", "mysql", "mssql", "databricks")
_FORMS = "http(s)://HOST:PORT, sqlite:////FOLDER/mlflow.db, another database's address, or databricks"


def local_tracking(paths: RunPaths) -> tuple[str, Path]:
    """Address and artifact folder of the store inside a run folder: SQLite, as MLflow 3 has no file store."""
    # Only what an address cannot hold is quoted: MLflow makes the parent folder of the path as it is written.
    path = str(paths.mlflow_db.resolve()).replace("%", "%25").replace("?", "%3F")
    return f"sqlite:///{path}", paths.mlartifacts.resolve()


def tracking_problem(uri: str) -> str | None:
    """Why the tracking store at ``uri`` cannot be reached or used now; None if it can.

    Raises:
        InputError: an unknown or malformed address.
    """
    scheme = uri.partition(":")[0].partition("+")[0].lower()
    plugins = {entry.name for entry in entry_points(group="mlflow.tracking_store")}
    if scheme not in plugins.union(_SCHEMES):
        raise InputError(f"tracking address {redact(uri)!r} is not one of: {_FORMS}")
    if scheme in ("http", "https") and not _has_host(uri):
        raise InputError(f"tracking address {redact(uri)!r} is not of the form {scheme}://HOST:PORT")
    if scheme == "sqlite" and _is_new_sqlite_file(uri):
        return None  # creating the schema takes seconds: that happens behind the sweep
    import_mlflow()  # not on the clock: on a slow disk it takes seconds
    try:
        _within(CHECK_SECONDS, lambda: _ask(uri, scheme))
    except Exception as error:
        return f"tracking server {redact(uri)!r} cannot be used: {describe(error)}"
    return None


def _has_host(uri: str) -> bool:
    try:
        parts = urlsplit(uri)
        return bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is not a number below 65536
        return False


def _is_new_sqlite_file(uri: str) -> bool:
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        database = make_url(uri).database
    except ArgumentError:
        database = None
    if not database or database == ":memory:":
        raise InputError(
            f"tracking address {redact(uri)!r} names no file: expected sqlite:////FOLDER/mlflow.db"
        )
    path = Path(database)
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise InputError(
            f"tracking address {redact(uri)!r}: {path.parent} is not a folder that can be written to"
        )
    return not path.exists() or path.stat().st_size == 0


def _ask(uri: str, scheme: str) -> None:
    if scheme in ("postgresql", "mysql", "mssql"):
        import sqlalchemy

        sqlalchemy.create_engine(uri).connect().close()  # a client would start by creating the schema
    else:
        mlflow_client(uri).search_experiments(max_results=1)


def _within(seconds: float, action: Callable[[], None]) -> None:
    """Run ``action``, giving up on it (its thread is a daemon) after ``seconds``: raises TimeoutError."""
    errors: list[Exception] = []

    def attempt() -> None:
        try:
            action()
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise TimeoutError(f"no answer within {seconds:.0f} s")
    if errors:
        raise errors[0]
