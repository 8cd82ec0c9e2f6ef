"""A real MLflow server that is down at the start, comes, hangs, dies, and is back in the end."""

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from analysis.records import RungResult, TrialRecord
from search.tracking import Tracker
from tests.integration.agreement import disagreements, rows
from tests.integration.conftest import TINY_SWEEP, lorafront
from tests.integration.launched import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


class Server:
    """`mlflow server` on loopback, one worker, with its database in a folder."""

    def __init__(self, folder: Path) -> None:
        self.database = folder / "server.db"
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [
            sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", self.port, "--workers", 1,
            "--backend-store-uri", f"sqlite:///{self.database}", "--artifacts-destination", self._folder / "artifacts",
        ]  # fmt: skip
        self._process = subprocess.Popen(
            [str(word) for word in command],
            env={
                **os.environ,
                "MLFLOW_DISABLE_TELEMETRY": "true",
                "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            },
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        wait_until(self.answers)

    def answers(self) -> bool:
        try:
            return bool(urllib.request.urlopen(f"{self.uri}/health", timeout=2).status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def send(self, number: signal.Signals) -> None:
        """To it and its workers."""
        assert self._process is not None
        os.killpg(self._process.pid, number)
        if number == signal.SIGKILL:
            self._process.wait()
            self._process = None

    def losses(self) -> int:
        return int(rows(self.database, "select count(*) from metrics where key = 'eval_loss'")[0][0])

    def close(self) -> None:
        if self._process is not None:
            self.send(signal.SIGKILL)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    yield server
    server.close()


def record(number: int, *steps: int) -> TrialRecord:
    rungs = [RungResult(examples_seen=n, eval_loss=6 - n / 48, eval_loss_stderr=0.1) for n in steps]
    return TrialRecord(
        trial_id=f"t{number:04d}", config={"rank": 8}, rungs=rungs, examples_seen=max(steps, default=0)
    )


def test_everything_arrives_once_from_a_server_that_comes_late_hangs_and_dies(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search.tracking._FIRST_WAIT_SECONDS", 0.1)
    for name, seconds in (("REQUEST_TIMEOUT", "2"), ("REQUEST_MAX_RETRIES", "0")):
        monkeypatch.setenv(f"MLFLOW_HTTP_{name}", seconds)
    tracker = Tracker(server.uri, artifact_root=None, experiment="lorafront")
    tracker.start_sweep("key", "sweep", {}, {})
    tracker.update(record(1, 4))
    server.start()
    wait_until(server.losses)
    server.send(signal.SIGSTOP)
    tracker.update(record(1, 4, 12))
    tracker.update(record(2, 4))
    wait_until(lambda: tracker._failures >= 3)  # given up, but the server has them and will carry them out
    server.send(signal.SIGCONT)
    wait_until(lambda: server.losses() >= 3)
    server.send(signal.SIGKILL)
    tracker.update(record(2, 4, 12))
    tracker.update(record(3))
    wait_until(lambda: tracker._failures >= 2)
    server.start()
    tracker.update(record(3, 4))
    wait_until(lambda: not tracker._jobs)
    assert tracker.close() == []
    query = """select t.value, m.step from metrics m join tags t on t.run_uuid = m.run_uuid join runs r on
               r.run_uuid = m.run_uuid where t.key = 'lorafront.trial_id' and m.key = 'eval_loss'
               and r.lifecycle_stage = 'active' order by 1, 2"""
    assert rows(server.database, query) == [
        ("t0001", 4),
        ("t0001", 12),
        ("t0002", 4),
        ("t0002", 12),
        ("t0003", 4),
    ]
    assert rows(server.database, "select count(*) from runs where lifecycle_stage = 'active'") == [(4,)]


def test_a_sweep_without_its_server_stops_or_is_written_later(
    workshop: Path, tmp_path: Path, server: Server
) -> None:
    run = tmp_path / "run"
    sweep = [*TINY_SWEEP, "--trials", 3, "--no-baseline", "--tracking-uri", server.uri, "--out", run]
    refused = lorafront(*sweep, cwd=workshop)
    assert refused.returncode == 2
    assert refused.stderr.startswith(f"error: tracking server {server.uri!r} cannot be used: ")
    assert "set tracking_outage=later" in refused.stderr
    assert not run.exists()

    done = lorafront(*sweep, "--set", "tracking_outage=later", cwd=workshop)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "it is tried again while the sweep runs" in done.stdout
    assert f"What MLflow lacks is written by: lorafront resume {run}" in done.stdout

    server.start()
    done = lorafront("resume", run, cwd=workshop)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "warning" not in done.stdout
    assert disagreements(run, server.database) == []
    trials = json.loads((run / "front.json").read_text())["trials"]
    query = """select t.value from tags t join tags f on t.run_uuid = f.run_uuid where t.key = 'lorafront.trial_id'
               and f.key = 'on_front' and f.value = 'true' order by 1"""
    assert rows(server.database, query) == [(t["trial_id"],) for t in trials if t["on_front"]]
