"""MLflow's client, made quiet and quick to give up; what its errors mean, without credentials."""

import logging
import os
import re
import textwrap
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow import MlflowClient

# MLflow retries for about four minutes and waits 120 s for each answer; the tracker tries again on its own,
# behind the sweep's back. CRITICAL: MLflow prints a traceback for every lost connection, which we report.
_CLIENT_DEFAULTS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}

# MLflow's names for "not now"; lost connections and answers of 500 to 599 come as INTERNAL_ERROR.
_TRANSIENT_CODES = {
    "INTERNAL_ERROR",
    "TEMPORARILY_UNAVAILABLE",
    "REQUEST_LIMIT_EXCEEDED",
    "RESOURCE_EXHAUSTED",
    "DEADLINE_EXCEEDED",
}
_PERMANENT_OS_ERRORS = (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError)

# A password may hold "/" or "@" that its owner forgot to quote: everything up to a word's last "@" goes.
_USER_INFO = re.compile(r"(://)(?:[^/\s@:]*:\S*|[^/\s@]*)@")
_SECRET_FIELD = re.compile(
    r"([?&;](?:password|passwd|pwd|token|secret|api_?key|odbc_connect)=)[^&;\s]+", re.I
)
_CAUSE = re.compile(r"""Caused by \w+\((?:["']?\w+\(.*?\): )?["']?(.*)""")


def import_mlflow() -> None:
    """Import MLflow such that it neither phones home, prints, nor retries for minutes."""
    for name, value in _CLIENT_DEFAULTS.items():
        os.environ.setdefault(name, value)
    import mlflow  # noqa: F401

    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # prints a line for every retry


def mlflow_client(uri: str) -> "MlflowClient":
    """A client for ``uri``."""
    import_mlflow()
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


def redact(text: str) -> str:
    """``text`` with the credentials inside any address replaced.

    >>> redact("no answer from http://ann:secret@host:5000/api")
    'no answer from http://***@host:5000/api'
    """
    return _SECRET_FIELD.sub(r"\1***", _USER_INFO.sub(r"\1***@", text))


def is_transient(error: Exception) -> bool:
    """Whether the same call may succeed later: the store did not answer, as against refused."""
    if isinstance(error, OSError):
        return not isinstance(error, _PERMANENT_OS_ERRORS)
    if type(error).__name__ == "OperationalError":  # SQLAlchemy's, for a locked or unreachable database
        return True
    return getattr(error, "error_code", None) in _TRANSIENT_CODES  # MlflowException


def describe(error: BaseException) -> str:
    """The cause of a failed call in one short line without credentials."""
    text = " ".join(str(error).partition("\n")[0].split()) or type(error).__name__
    cause = _CAUSE.search(text)
    return textwrap.shorten(redact(cause[1].rstrip(")\"'") if cause else text), 200, placeholder=" ...")
