"""Running again: the same seed, other data formats, and after an interrupt."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.integration.agreement import disagreements
from tests.integration.conftest import LORAFRONT, TINY_SWEEP, environment, lorafront
from tests.integration.test_sweep import last_states

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


def figures(run: Path) -> dict[str, Any]:
    """What a trial is and found, without what depends on the clock."""
    names = ("status", "config", "eval_loss", "eval_loss_stderr", "peak_memory_bytes", "seed")
    return {trial_id: {name: trial[name] for name in names} for trial_id, trial in last_states(run).items()}


def wait_for_ends(run: Path, process: "subprocess.Popen[Any]", ended: int) -> None:
    """Wait until so many trials of a running sweep have ended."""
    journal, deadline = run / "trials.jsonl", time.monotonic() + 600
    while not (journal.exists() and journal.read_text().count('"event":"ended"') >= ended):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_the_same_seed_gives_the_same_trials(finished: Path, tmp_path: Path) -> None:
    done = lorafront(*TINY_SWEEP, "--out", tmp_path / "twin", cwd=finished.parent)
    assert done.returncode == 0, done.stdout + done.stderr
    assert figures(tmp_path / "twin") == figures(finished)
    other = lorafront(
        *TINY_SWEEP, "--trials", 2, "--seed", 1, "--out", tmp_path / "other", cwd=finished.parent
    )
    assert other.returncode == 0, other.stdout + other.stderr
    assert figures(tmp_path / "other")["t0002"]["config"] != figures(finished)["t0002"]["config"]


def test_an_interrupt_leaves_a_resumable_run_and_says_so(finished: Path, tmp_path: Path) -> None:
    cwd, run = finished.parent, tmp_path / "run"
    command = [LORAFRONT, *map(str, TINY_SWEEP), "--trials", "30", "--no-baseline", "--out", str(run)]
    process = subprocess.Popen(
        command, cwd=cwd, env=environment(cwd), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    wait_for_ends(run, process, 2)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=240)
    assert process.returncode == 130, stderr
    assert stderr.strip().endswith(f"interrupted; go on with: lorafront resume {run}")
    assert json.loads((run / "front.json").read_text())["finished"] is False
    interrupted = last_states(run)
    done = lorafront("resume", run, cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr
    after = last_states(run)
    for trial_id, before in interrupted.items():  # those that were stopped may have gone on
        assert after[trial_id]["rungs"][: len(before["rungs"])] == before["rungs"]
        assert before["status"] == "stopped" or after[trial_id] == before
    assert len(after) == 30


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_tables_of_prompts_and_responses(finished: Path, tmp_path: Path, suffix: str) -> None:
    import pandas as pd

    rows = [{"prompt": f"{n} 加一, in digits?", "response": f'是 {n + 1}, "{n}" plus one'} for n in range(40)]
    table = pd.DataFrame(rows)
    file = tmp_path / f"rows.{suffix}"
    table.to_csv(file, index=False) if suffix == "csv" else table.to_parquet(file)
    done = lorafront(
        "sweep", "--base-model", "model", "--data", file, "--trials", 1, "--max-examples", 9, "--no-baseline",
        "--confirm", 0, "--out", tmp_path / "run", "--set", "data.seq_len=64", cwd=finished.parent,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (trial,) = last_states(tmp_path / "run").values()
    assert trial["status"] == "completed"
    facts = json.loads((tmp_path / "run" / "trials.jsonl").read_text().splitlines()[0])["sweep"]["data"]
    assert facts["rows"] == 40


def test_kills_change_nothing(finished: Path, tmp_path: Path) -> None:
    """SIGKILL to driver and workers, twice, then the same trials, study and MLflow runs as an undisturbed sweep."""
    cwd, run = finished.parent, tmp_path / "run"
    command = [LORAFRONT, *map(str, TINY_SWEEP), "--out", str(run)]
    for ended in (2, 5):
        process = subprocess.Popen(
            command, cwd=cwd, env=environment(cwd), stdout=subprocess.DEVNULL, start_new_session=True
        )
        wait_for_ends(run, process, ended)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        command = [LORAFRONT, "resume", str(run)]
    done = lorafront("resume", run, cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr
    assert figures(run) == figures(finished)
    assert disagreements(run) == []
