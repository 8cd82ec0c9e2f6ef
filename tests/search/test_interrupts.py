import signal
import subprocess
import sys

import psutil
import pytest

SCRIPT = """
import subprocess, sys, time
from contextlib import nullcontext
from search.interrupts import Interrupts

child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"], start_new_session=True)
print(child.pid, flush=True)
with Interrupts("go on with: this") as interrupts:
    with interrupts.heed() if sys.argv[1] == "heeded" else nullcontext():
        print("ready", flush=True)
        while not interrupts.requested:
            time.sleep(0.01)
        if sys.argv[2] == "waits":
            time.sleep(1000)
print("left", flush=True)
child.kill()
"""


def started(heeded: str, then: str) -> "tuple[subprocess.Popen[str], psutil.Process]":
    """The script, ready, and the process that it has started."""
    command = [sys.executable, "-c", SCRIPT, heeded, then]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    child = psutil.Process(int(process.stdout.readline()))
    assert process.stdout.readline() == "ready\n"
    return process, child


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_one_only_asks_to_stop(number: signal.Signals) -> None:
    process, _ = started("heeded", "leaves")
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout) == (0, "left\n")
    assert stderr.startswith("stopping: ")


@pytest.mark.parametrize("heeded", ["heeded", "unheeded"])
def test_the_second_or_one_that_nobody_heeds_ends_all_processes_at_once(heeded: str) -> None:
    process, child = started(heeded, "waits")
    assert process.stderr is not None
    process.send_signal(signal.SIGINT)
    if heeded == "heeded":
        assert process.stderr.readline().startswith("stopping: ")
        process.send_signal(signal.SIGTERM)
    stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout, stderr) == (130, "", "go on with: this\n")
    psutil.wait_procs([child], timeout=60)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
