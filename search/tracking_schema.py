"""A new SQLite store of MLflow's, made whole or not at all."""

import os
from contextlib import suppress
from pathlib import Path

from search.tracking_client import import_mlflow


def create_store(uri: str, artifact_root: Path | None) -> None:
    """Make the database of a SQLite address that has none yet; of any other address nothing.

    MLflow makes its 40 tables one by one, for a second or two. Killed meanwhile it leaves a file that it never opens
    again, so they are made in another file, which takes its place once it is complete. What a kill leaves then is
    removed by the next `lorafront resume`.

    Args:
        uri: as MLflow takes it.
        artifact_root: for MLflow's own default experiment, which lorafront does not use.
    """
    path = _file_of(uri)
    if path is None or path.exists():
        return
    import_mlflow()
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    folder, _, name = uri.rpartition("/")
    scratch = f".{name}.{os.getpid()}.tmp"
    try:
        store = SqlAlchemyStore(
            f"{folder}/{scratch}", (artifact_root or path.parent / "mlartifacts").as_uri()
        )
        store.engine.dispose()
        with suppress(FileExistsError):  # another sweep was faster
            os.link(path.with_name(scratch), path)
    finally:
        path.with_name(scratch).unlink(missing_ok=True)


def _file_of(uri: str) -> Path | None:
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    # Options after a question mark are left to MLflow.
    if not uri.startswith("sqlite:") or "?" in uri:
        return None
    try:
        database = make_url(uri).database
    except ArgumentError:
        return None
    return Path(database) if database and database != ":memory:" else None
