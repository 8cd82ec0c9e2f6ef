"""A real sweep against a real MLflow server with credentials: who listens where, and what is written down."""

import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.integration.conftest import LEARNABLE, LORAFRONT, environment, lorafront
from tests.integration.test_tracking_outage import Server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

SECRET = "correct-horse-battery"
SWEEP = [
    "sweep", "--base-model", "model", "--data", "chat.jsonl", "--trials", 1, "--max-examples", 9, "--no-baseline",
    "--concurrent", 1, "--confirm", 0, "--out", "guarded", *LEARNABLE,
]  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """An MLflow server on loopback."""
    server = Server(tmp_path_factory.mktemp("server"))
    server.start()
    yield server
    server.close()


def listeners(process: psutil.Process) -> set[str]:
    """The addresses at which a process and its children listen."""
    found = set()
    for each in [process, *process.children(recursive=True)]:
        try:
            found |= {c.laddr.ip for c in each.net_connections("inet") if c.status == psutil.CONN_LISTEN}
        except psutil.Error:  # ended meanwhile
            continue
    return found


@pytest.fixture(scope="module")
def logs() -> Iterator[Path]:
    """Where Ray writes; the paths of its sockets must be short."""
    with tempfile.TemporaryDirectory(prefix="lf-", dir="/tmp") as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def swept(workshop: Path, server: Server, logs: Path) -> tuple[Path, set[str], str]:
    """Run folder, where its processes listened, and all that was printed."""
    uri = server.uri.replace("://", f"://ann:{SECRET}@")
    command = [LORAFRONT, *map(str, SWEEP), "--tracking-uri", uri]
    env = environment(workshop) | {"RAY_TMPDIR": str(logs), "MLFLOW_TRACKING_TOKEN": f"token-{SECRET}"}
    addresses: set[str] = set()
    with (workshop / "guarded.txt").open("w") as output:
        process = psutil.Popen(command, cwd=workshop, env=env, stdout=output, stderr=subprocess.STDOUT)
        try:
            while process.poll() is None:
                with suppress(psutil.NoSuchProcess):
                    addresses |= listeners(process)
                time.sleep(0.5)
        finally:
            if process.poll() is None:
                process.terminate()
    printed = (workshop / "guarded.txt").read_text()
    assert process.wait() == 0, printed
    return workshop / "guarded", addresses, printed


def test_everything_listens_on_loopback(swept: tuple[Path, set[str], str]) -> None:
    _, addresses, _ = swept
    assert addresses
    assert {address.removeprefix("::ffff:") for address in addresses} == {"127.0.0.1"}


def test_credentials_are_written_nowhere(
    swept: tuple[Path, set[str], str], server: Server, logs: Path
) -> None:
    run, _, printed = swept
    assert SECRET not in printed
    assert "MLFLOW_TRACKING_PASSWORD" in printed  # how to resume
    folders = (run, server.database.parent, logs)
    files = [file for folder in folders for file in folder.rglob("*") if file.is_file()]
    assert {"sweep.yaml", "trials.jsonl", "report.html", "server.db", "gcs_server.out"} <= {
        file.name for file in files
    }
    assert [file for file in files if SECRET.encode() in file.read_bytes()] == []
    assert f"tracking_uri: {server.uri}" in (run / "sweep.yaml").read_text()


def test_the_server_got_the_sweep_and_a_resumed_one_asks_it_again(
    swept: tuple[Path, set[str], str], server: Server, workshop: Path
) -> None:
    run = swept[0]
    assert server.losses() > 0
    done = lorafront("resume", run, cwd=workshop)
    assert done.returncode == 0, done.stdout + done.stderr
    assert SECRET not in done.stdout + done.stderr + (run / "trials.jsonl").read_text()
