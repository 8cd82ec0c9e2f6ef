"""What sweeps survive, done for real: interrupts, dead and hanging workers, a full disk, other processes."""

import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.integration.agreement import disagreements, journal_trials
from tests.integration.conftest import TINY_SWEEP, lorafront
from tests.integration.launched import Launched, wait_until
from tests.integration.ray_nodes import HOST, RayNodes, own_environment
from tests.integration.test_sweep import last_states

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]
ENDED = '"event":"ended"'


def journal(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "trials.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A small file system of its own, where mounting is allowed; else an ordinary folder."""
    folder = tmp_path_factory.mktemp("disk")
    mounted = shutil.which("mount") and mount("-t", "tmpfs", "-o", "size=32m", "tmpfs", folder) == 0
    yield folder
    if mounted:
        unmount(folder)


def mount(*arguments: object) -> int:
    return subprocess.run(["mount", *map(str, arguments)], capture_output=True).returncode


def unmount(folder: Path) -> None:
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture(scope="module")
def survivor(workshop: Path, disk: Path) -> Path:
    """A run that gets through all of it, launch by launch, and then is finished."""
    run = disk / "run"
    sweep = [*TINY_SWEEP, "--no-baseline", "--set", "rung_timeout=30s", "--out", run]
    interrupt(Launched(*sweep, cwd=workshop, run=run), twice=False)
    interrupt(Launched("resume", run, cwd=workshop, run=run), twice=True)
    if disk.is_mount():
        fill_disk(Launched("resume", run, cwd=workshop, run=run), disk)
        make_read_only(Launched("resume", run, cwd=workshop, run=run))
    kill_and_stop_workers(Launched("resume", run, cwd=workshop, run=run))
    return run


def interrupt(launched: Launched, *, twice: bool) -> None:
    """In the middle of it, and while it runs refuse another process."""
    run = launched.run
    launched.wait_for_more(ENDED)
    if not twice:
        refused = lorafront("resume", run, cwd=run.parent)
        assert refused.returncode == 2
        line = f"error: another lorafront process is working on {run}: stop it or wait for it\n"
        assert refused.stderr == line
    launched.interrupt(twice=twice)
    code, _, stderr = launched.end()
    assert code == 130, stderr
    assert stderr.splitlines()[-1] == f"interrupted; go on with: lorafront resume {run}"
    wait_until(lambda: not launched.processes())


def stops_for_its_disk(launched: Launched, words: str) -> None:
    code, stdout, stderr = launched.end()
    assert code == 2, stdout + stderr
    (line,) = [line for line in stderr.splitlines() if line.startswith("error:")]
    assert words in line
    assert line.endswith(f"lorafront resume {launched.run}")


def fill_disk(launched: Launched, disk: Path) -> None:
    """Leave no byte free."""
    launched.wait_for_more(ENDED)
    with suppress(OSError), (disk / "filler").open("wb", buffering=0) as file:
        for size in (2**16, 1):
            while file.write(b"\0" * size) == size:
                continue
    stops_for_its_disk(launched, "no space left")
    (disk / "filler").unlink()


def make_read_only(launched: Launched) -> None:
    """As a failing disk does it: what is open stays open."""
    run = launched.run
    launched.wait_for_more(ENDED)
    # Made read-only elsewhere first: where a file is open for writing, a mount cannot be changed.
    aside = run.with_name("aside")
    aside.mkdir()
    for arguments in (("--bind", run, aside), ("-o", "remount,ro,bind", aside), ("--bind", aside, run)):
        assert mount(*arguments) == 0
    unmount(aside)
    stops_for_its_disk(launched, "read-only")
    refused = lorafront("resume", run, cwd=run.parent)
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    unmount(run)


def kill_and_stop_workers(launched: Launched) -> None:
    """SIGKILL is what a process gets that takes too much memory; one that is stopped hangs for ever."""
    launched.wait_for_more('"event":"result"')
    for pid in launched.workers():
        os.kill(pid, signal.SIGKILL)
    launched.wait_for('"restarted"')
    launched.wait_for_more('"event":"result"')
    hung = launched.workers()
    for pid in hung:
        os.kill(pid, signal.SIGSTOP)
    launched.wait_for('"hung: no result')
    wait_until(lambda: not set(hung) & launched.processes().keys())
    code, stdout, stderr = launched.end()
    assert code == 0, stdout + stderr


def test_neither_interrupts_nor_full_disks_nor_dead_workers_fail_a_trial(survivor: Path) -> None:
    trials = last_states(survivor)
    assert len(trials) == 8
    (hung,) = [trial for trial in trials.values() if trial["status"] not in ("completed", "stopped")]
    assert "see rung_timeout" in hung["error"]
    assert any("worker process died" in (trial.get("restarted") or "") for trial in trials.values())
    assert json.loads((survivor / "front.json").read_text())["finished"] is True


def test_a_full_and_a_read_only_disk_stopped_it(survivor: Path, disk: Path) -> None:
    """What was said then is checked as it happens; here that it happened."""
    if not disk.is_mount():
        pytest.skip("mounting is not allowed here: neither a full nor a read-only disk was tried")
    launches = [event for event in journal(survivor) if "command" in (event.get("sweep") or {})]
    assert len(launches) == 5


def test_what_was_measured_before_an_interrupt_stays(survivor: Path) -> None:
    measured: dict[tuple[str, int], float] = {}
    for event in journal(survivor):
        for rung in (event.get("trial") or {}).get("rungs", ()):
            key = event["trial"]["trial_id"], rung["examples_seen"]
            assert measured.setdefault(key, rung["eval_loss"]) == rung["eval_loss"]
    kept = {
        (i, rung["examples_seen"]) for i, trial in last_states(survivor).items() for rung in trial["rungs"]
    }
    assert kept == measured.keys()


def test_the_study_and_mlflow_agree_with_the_journal(survivor: Path) -> None:
    assert disagreements(survivor) == []


def test_a_killed_raylet_ends_it_resumably_and_leaves_nothing(workshop: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    launched = Launched(*TINY_SWEEP, "--trials", 2, "--no-baseline", "--out", run, cwd=workshop, run=run)
    launched.wait_for('"event":"result"')
    names = launched.processes()
    (raylet,) = [pid for pid, name in names.items() if name.split("\0")[0].endswith("/raylet")]
    os.kill(raylet, signal.SIGKILL)
    code, stdout, stderr = launched.end()
    assert code == 2, stdout + stderr
    assert stderr.splitlines()[-1].startswith("error: Ray's process raylet is gone")
    assert stderr.splitlines()[-1].endswith(f"go on with: lorafront resume {run}")
    wait_until(lambda: not launched.processes())
    done = lorafront("resume", run, cwd=workshop)
    assert done.returncode == 0, done.stdout + done.stderr
    assert disagreements(run) == []
    assert len(journal_trials(run)) == 2


@pytest.mark.skipif(not HOST, reason="needs an address other than loopback")
def test_two_sweeps_share_a_cluster_and_an_output_folder(workshop: Path, tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="lf-", dir="/tmp") as folder:
        nodes = RayNodes(Path(folder), own_environment(workshop), "--num-cpus=2", "--include-dashboard=false")
        try:
            both = [launch_on(nodes, workshop, tmp_path / f"run{seed}", seed) for seed in range(2)]
            for launched in both:
                code, stdout, stderr = launched.end()
                assert code == 0, stdout + stderr
                assert disagreements(launched.run) == []
                assert len(journal_trials(launched.run)) == 2
        finally:
            nodes.close()


def launch_on(nodes: RayNodes, cwd: Path, run: Path, seed: int) -> Launched:
    sweep = [*TINY_SWEEP, "--trials", 2, "--no-baseline", "--address", nodes.address, "--seed", seed]
    token = {name: value for name, value in nodes.environment.items() if name.startswith("RAY_AUTH")}
    return Launched(*sweep, "--out", run, cwd=cwd, run=run, **token)
