"""Credentials of the tracking server: used where they are given, and written down nowhere."""

import os
import shlex
from collections.abc import Sequence

from search.tracking_client import redact

URI_VARIABLE = "MLFLOW_TRACKING_URI"
NOTE = (
    f"the credentials in the tracking address are not stored: lorafront resume takes them from {URI_VARIABLE}, "
    "or from MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
)


def recorded_command(arguments: Sequence[str]) -> str:
    """The command line as records keep it, without credentials.

    >>> recorded_command(["sweep", "--tracking-uri", "http://ann:secret@host:5000"])
    'lorafront sweep --tracking-uri http://host:5000'
    """
    return shlex.join(["lorafront", *map(without_credentials, arguments)])


def without_credentials(text: str) -> str:
    """``text`` with no user or password in any address; other secret fields of an address read ``***``."""
    return redact(text).replace("://***@", "://")


def with_credentials(uri: str | None) -> str | None:
    """A stored tracking address with the credentials of MLFLOW_TRACKING_URI, where that names the same server."""
    given = os.environ.get(URI_VARIABLE, "")
    return given if uri and without_credentials(given) == uri else uri
