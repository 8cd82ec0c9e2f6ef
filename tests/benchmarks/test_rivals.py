"""The comparison of whole sweeps: what its numbers are made of. The runs themselves are no tests."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from search.errors import InputError
from tests.benchmarks.processes import run_measured
from tests.benchmarks.rivals import clock
from tests.benchmarks.rivals.job import as_row
from tests.benchmarks.rivals.measure import SIDES, Settings
from tests.benchmarks.rivals.phases import PHASES, examples_per_trial, read_marks, seconds_per_phase
from tests.benchmarks.rivals.report import ratios, section, verdicts
from tests.benchmarks.tables import markdown, put_between, spread
from trainables.chat import TokenizedExample


def marks(*pairs: tuple[float, str]) -> list[dict[str, object]]:
    return [{"time": time, "phase": phase, "examples": None} for time, phase in pairs]


def test_phases_add_up_to_the_makespan() -> None:
    one = marks(
        (2, "load"), (3, "train"), (6, "evaluate"), (7, "report"), (8, "end"), (10, "load"), (11, "train")
    )
    other = marks((2, "load"), (4, "train"), (12, "end"))
    found = seconds_per_phase([one, other], started=0.0, ended=15.0, workers=2)
    assert set(found) == set(PHASES)
    assert sum(found.values()) == pytest.approx(15.0)
    assert found["start"] == 2
    assert found["stop"] == 3
    assert found["train"] == (3 + 8) / 2  # the phase that was left open counts as waiting
    assert found["load"] == (1 + 1 + 2) / 2
    assert seconds_per_phase([], 0.0, 4.0, workers=2)["start"] == 4


def test_a_trial_has_trained_on_as_many_examples_as_its_last_mark_says() -> None:
    trial = [{"phase": "load"}, {"phase": "evaluate", "examples": 16}, {"phase": "evaluate", "examples": 48}]
    assert examples_per_trial([[*trial, {"phase": "load"}], trial[:2]]) == [48, 0, 16]


def test_marks_are_read_per_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock.mark("load")  # nobody asks: nothing happens
    monkeypatch.setenv(clock.VARIABLE, str(tmp_path))
    clock.mark("load")
    clock.mark("evaluate", 16)
    (found,) = read_marks(tmp_path)
    assert [(mark["phase"], mark["examples"]) for mark in found] == [("load", None), ("evaluate", 16)]


def test_labels_are_the_targets_in_place() -> None:
    row = as_row(TokenizedExample(np.array([5, 6, 7], dtype=np.int32), np.array([False, False, True])))
    assert row == {"input_ids": [5, 6, 7], "attention_mask": [1, 1, 1], "labels": [-100, -100, 7]}


def figures(seconds: float) -> dict[str, object]:
    phases = dict.fromkeys(PHASES, seconds / len(PHASES))
    own = {"makespan_seconds": seconds, "phases": phases, "peak_pss_bytes": 2**30, "completed": 2}
    return own | {"tokens_per_train_second": 100.0, "tokens_per_makespan_second": 50.0, "best_loss": None}


def test_ratios_pair_runs_of_one_round_and_targets_are_judged_by_their_median() -> None:
    runs = {
        "ours": {0: figures(10.0), 1: figures(20.0)},
        "ray-tune": {1: figures(120.0), 0: figures(40.0), 2: figures(1.0)},
        "ray-tune-tuned": {0: figures(20.0), 1: figures(40.0)},
    }
    assert ratios(runs, "ray-tune") == [4.0, 6.0]
    written, tuned = verdicts(runs)
    assert "the target of 5 is met" in written
    assert "the target of 2.5 is missed" in tuned
    settings = {"size": "smollm2-135m", "trials": 16, "rungs": [16, 48, 144], "workers": 2}
    written = section(settings, runs)
    assert "| ours | 15 (10 to 20) | 100" in written
    assert "| ray-tune | 5.0 (4.0 to 6.0) | - | - | - | - | 1.0 (1.0 to 1.0) | 5 |" in written


def test_ours_and_theirs_get_the_same_task(tmp_path: Path) -> None:
    settings = Settings(tmp_path, {}, ("--base-model", "tiny"), trials=16, workers=2, timeout=1.0)
    by_name = {side.name: settings.command(side, tmp_path, seed=7) for side in SIDES}
    for command in by_name.values():
        assert "--trials 16 --seed 7" in " ".join(command)
    assert "--base-model tiny" in " ".join(by_name["ours"])
    assert by_name["ours-asha-tpe"][-4:] == ["--set", "scheduler=asha", "--set", "sampler=tpe"]


def test_spread_and_markdown() -> None:
    assert spread([2.0]) == "2.00"
    assert spread([], 1) == "-"
    assert spread([3.0, 1.0, 2.0], 0) == "2 (1 to 3)"
    assert markdown(("a", "b"), [("1", "2")]) == "| a | b |\n| - | - |\n| 1 | 2 |"


def test_only_what_stands_between_the_markers_is_replaced(tmp_path: Path) -> None:
    file = tmp_path / "README.md"
    file.write_text("before\n<!-- x:begin -->old<!-- x:end -->\nafter\n")
    put_between(file, "x", "new")
    assert file.read_text() == "before\n<!-- x:begin -->\nnew\n<!-- x:end -->\nafter\n"
    with pytest.raises(InputError, match="must hold one <!-- y:begin -->"):
        put_between(file, "y", "new")


def test_a_measured_command_is_ended_with_all_it_started(tmp_path: Path) -> None:
    child = "import time; time.sleep(600)"  # in a session of its own, as Ray's processes may be
    start = f"subprocess.Popen([sys.executable, '-c', '{child}'], start_new_session=True)"
    code = f"import subprocess, sys; print({start}.pid, flush=True)"
    log = tmp_path / "log.txt"
    measured = run_measured(
        [sys.executable, "-c", f"{code}; import time; time.sleep(600)"],
        log=log, env=dict(os.environ), cwd=tmp_path, timeout=2.0,
    )  # fmt: skip
    assert measured.timed_out
    assert measured.most_processes == 2
    assert measured.peak_pss_bytes > measured.peak_uss_bytes > 0
    pid = int(log.read_text())
    state = Path(f"/proc/{pid}/stat")
    assert not state.exists() or state.read_text().split()[2] == "Z"


def test_the_hook_notes_the_phases_of_a_module(tmp_path: Path) -> None:
    hook = Path(clock.__file__).parent / "hook"
    package = tmp_path / "trainables"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "training.py").write_text(
        "class Training:\n    def train_to_next_rung(self):\n        return 1.5\n"
    )
    root = Path(clock.__file__).parents[3]
    environment = {"PYTHONPATH": f"{hook}:{tmp_path}:{root}", clock.VARIABLE: str(tmp_path), "PATH": ""}
    code = "from trainables.training import Training; print(Training().train_to_next_rung())"
    measured = run_measured([sys.executable, "-c", code], log=tmp_path / "log", env=environment, cwd=tmp_path)
    assert measured.tail == "1.5"
    (file,) = tmp_path.glob("*.jsonl")
    assert [json.loads(line)["phase"] for line in file.read_text().splitlines()] == ["train", "end"]
