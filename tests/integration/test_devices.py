"""A real sweep whose trials have two devices each: two processes on the CPU, one of which is killed on the way."""

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from search.environment import cpu_budget
from tests.integration.conftest import LEARNABLE, LORAFRONT, environment, lorafront
from tests.integration.test_sweep import last_states

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(cpu_budget() < 2, reason="two devices on the CPU take two cores"),
]
TWO_DEVICES = ["--set", "execution.devices_per_trial=2", "--set", "space.batch_size=[4, 8]"]


def workers_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The processes that train, of the sweep that ``process`` drives."""
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            if "GroupMember" in " ".join(child.cmdline()):
                found.append(child)
        except psutil.Error:
            continue
    return found


def two(workers: list[psutil.Process]) -> list[psutil.Process]:
    """``workers`` once there are two."""
    return workers if len(workers) == 2 else []


def wait_for(condition: Any, process: subprocess.Popen[str], seconds: float = 180) -> Any:
    """What ``condition`` returns once it is true, while the sweep runs."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        found = condition()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError(f"the sweep ended with {process.poll()} or nothing came in {seconds} s")


def test_a_trial_goes_on_after_one_of_its_two_workers_was_killed(workshop: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    arguments = [
        "sweep", "--base-model", "model", "--data", "chat.jsonl", "--trials", 2, "--max-examples", 810,
        "--no-baseline", "--confirm", 0, "--concurrent", 1, "--out", run, *LEARNABLE, *TWO_DEVICES,
        "--set", "scheduler=fifo",
    ]  # fmt: skip
    with (tmp_path / "output").open("w") as output:
        sweep = subprocess.Popen(
            [LORAFRONT, *map(str, arguments)], cwd=workshop, env=environment(workshop), stdout=output, stderr=output,
            text=True,
        )  # fmt: skip
    journal = run / "trials.jsonl"
    workers = wait_for(lambda: two(workers_of(sweep)), sweep)
    wait_for(lambda: journal.exists() and '"event":"result"' in journal.read_text(), sweep)
    os.kill(workers[1].pid, signal.SIGKILL)
    assert sweep.wait(timeout=900) == 0, (tmp_path / "output").read_text()
    assert not any(worker.is_running() for worker in workers)
    killed, other = (trial for _, trial in sorted(last_states(run).items()))
    assert re.match("worker [01] of 2 died", killed["restarted"]), killed["restarted"]
    assert "restarted" not in other
    for completed in (killed, other):
        assert completed["status"] == "completed"
        assert [rung["examples_seen"] for rung in completed["rungs"]] == [90, 270, 810]
        assert completed["peak_memory_bytes"] == pytest.approx(completed["predicted_memory_bytes"], rel=0.02)
    assert json.loads((run / "front.json").read_text())["finished"] is True


def test_more_devices_than_there_are_is_one_line(workshop: Path, tmp_path: Path) -> None:
    done = lorafront(
        "sweep", "--base-model", "model", "--data", "chat.jsonl", "--out", tmp_path / "run", "--max-examples", 36,
        "--set", "execution.devices_per_trial=512", "--set", "space.batch_size=512", "--set", "baseline.batch_size=512",
        cwd=workshop,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("error: execution.devices_per_trial 512: this machine has "), done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "run").exists()
