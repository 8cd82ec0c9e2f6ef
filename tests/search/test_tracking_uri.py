import re
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from search.errors import InputError
from search.tracking_client import redact
from search.tracking_uri import tracking_problem


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://host:5000", "http://host:5000"),
        ("http://ann:secret@host:5000/x", "http://***@host:5000/x"),
        ("https://token@host", "https://***@host"),
        ("http://ann:se/cr@et@host/x", "http://***@host/x"),
        ("postgresql+psycopg2://ann:secret@host/db", "postgresql+psycopg2://***@host/db"),
        (
            "postgresql://host/db?user=ann&password=secret&x=1",
            "postgresql://host/db?user=ann&password=***&x=1",
        ),
        ("sqlite:////home/ann@work/mlflow.db", "sqlite:////home/ann@work/mlflow.db"),
        ("databricks://profile", "databricks://profile"),
        ("no http://a:b@c:1/d or https://e:f@g here", "no http://***@c:1/d or https://***@g here"),
    ],
)
def test_redact_hides_credentials_and_nothing_else(text: str, expected: str) -> None:
    assert redact(text) == expected


def problem_of(uri: str) -> str:
    """What is said of an address that is malformed, or of a server that cannot be used."""
    try:
        return tracking_problem(uri) or ""
    except InputError as error:
        return str(error)


@pytest.mark.parametrize("uri", ["localhost:5000", "http://", "sqlite://"])
def test_a_malformed_address_is_an_error_and_a_dead_server_a_problem(uri: str) -> None:
    with pytest.raises(InputError):
        tracking_problem(uri)
    assert tracking_problem("http://127.0.0.1:9") is not None


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("localhost:5000", "is not one of: http"),
        ("file:///tmp/mlruns", "is not one of"),
        ("./mlruns", "is not one of"),
        ("", "is not one of"),
        ("ftp://ann:secret@host", r"ftp://\*\*\*@host"),
        ("http://", "not of the form"),
        ("http://host:port", "not of the form"),
        ("https://host:99999", "not of the form"),
        ("sqlite://", "names no file"),
        ("sqlite:///:memory:", "names no file"),
        ("sqlite:////no/such/folder/mlflow.db", "/no/such/folder is not a folder"),
        ("http://ann:secret@127.0.0.1:9", "refused"),
        ("http://host.invalid:5000", "resolve|no answer"),
        ("postgresql://ann:secret@127.0.0.1:9/db", "cannot be used"),
    ],
)
def test_an_unusable_address_is_one_line_without_credentials(uri: str, says: str) -> None:
    started = time.monotonic()
    problem = problem_of(uri)
    assert re.search(says, problem)
    assert time.monotonic() - started < 12
    assert "secret" not in problem
    assert "\n" not in problem


def test_a_new_sqlite_file_is_fine_and_not_created(tmp_path: Path) -> None:
    assert tracking_problem(f"sqlite:///{tmp_path}/mlflow.db") is None
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("not a database")
    assert "not a database" in problem_of(f"sqlite:///{tmp_path}/mlflow.db")


class _Answer(BaseHTTPRequestHandler):
    status, body = 200, b"{}"

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.end_headers()
        self.wfile.write(self.body)

    do_POST = do_GET  # noqa: N815

    def log_message(self, format: str, *args: object) -> None: ...


@pytest.mark.parametrize(
    ("status", "body", "says"), [(200, b"<html>", "JSON"), (401, b"", "401"), (404, b"", "404")]
)
def test_a_server_that_is_not_mlflow_or_refuses_us_is_told_apart(status: int, body: bytes, says: str) -> None:
    handler = type("Handler", (_Answer,), {"status": status, "body": body})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        assert says in problem_of(f"http://127.0.0.1:{server.server_port}")
        server.shutdown()


def test_a_server_that_answers_is_accepted() -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        assert tracking_problem(f"http://127.0.0.1:{server.server_port}") is None
        server.shutdown()


def test_a_server_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("search.tracking_uri.CHECK_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert "no answer" in problem_of(f"http://127.0.0.1:{silent.getsockname()[1]}")
