import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from search.tracking_client import mlflow_client
from search.tracking_schema import create_store

PROGRAM = "import sys; from search.tracking_schema import create_store; create_store(sys.argv[1], None)"


def tables(database: Path) -> int:
    with sqlite3.connect(database) as connection:
        return int(
            connection.execute("select count(*) from sqlite_master where type = 'table'").fetchone()[0]
        )


@pytest.mark.timeout(600)
def test_a_kill_leaves_no_store_or_a_whole_one(tmp_path: Path) -> None:
    database = tmp_path / "mlflow.db"
    uri = f"sqlite:///{database}"
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, uri], start_new_session=True)
    half_made: list[Path] = []
    while not half_made or tables(half_made[0]) < 5:
        assert process.poll() is None, "it was not caught in the middle"
        half_made = [path for path in tmp_path.iterdir() if path.name.endswith(".tmp")]
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not database.exists()
    create_store(uri, None)
    assert tables(database) > 30
    assert mlflow_client(uri).create_experiment("lorafront")
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".tmp")] == [half_made[0].name]


def test_a_store_that_is_there_is_left_alone(tmp_path: Path) -> None:
    database = tmp_path / "mlflow.db"
    create_store(f"sqlite:///{database}", None)
    before = database.read_bytes()
    create_store(f"sqlite:///{database}", None)
    assert database.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["mlflow.db"]


@pytest.mark.parametrize(
    "uri", ["http://127.0.0.1:1", "sqlite://", "sqlite:///:memory:", "postgresql://host/base"]
)
def test_other_addresses_are_mlflow_s_business(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    create_store(uri, None)
    assert list(tmp_path.iterdir()) == []
