"""The main job through the real command: run folder, front, MLflow, Optuna, report, export, resume."""

import json
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import LEARNABLE, lorafront

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


def last_states(run: Path) -> dict[str, dict[str, Any]]:
    """What trials.jsonl says last of every trial, read without lorafront."""
    states = {}
    for line in (run / "trials.jsonl").read_text().splitlines():
        event = json.loads(line)
        if event["event"] == "ended":
            states[event["trial"]["trial_id"]] = event["trial"]
    return states


def test_the_front_follows_from_trials_jsonl(finished: Path) -> None:
    front = json.loads((finished / "front.json").read_text())
    trials = {t["trial_id"]: t for t in last_states(finished).values() if t["kind"] == "lora"}
    done = [t for t in trials.values() if t["status"] == "completed"]
    expected = {
        t["trial_id"]
        for t in done
        if not any(
            o["eval_loss"] <= t["eval_loss"]
            and o["peak_memory_bytes"] <= t["peak_memory_bytes"]
            and (o["eval_loss"], o["peak_memory_bytes"]) != (t["eval_loss"], t["peak_memory_bytes"])
            for o in done
        )
    }
    assert len(trials) == 8
    assert expected
    assert {t["trial_id"] for t in front["trials"] if t["on_front"]} == expected
    assert front["finished"] is True
    assert front["base"]["eval_loss"] > min(t["eval_loss"] for t in done)
    assert front["baseline"]["kind"] == "full"
    assert front["headline"]["trial_id"] in expected


def test_rungs_are_at_the_stated_examples(finished: Path) -> None:
    for trial in last_states(finished).values():
        seen = [rung["examples_seen"] for rung in trial["rungs"]]
        assert seen == [4, 12, 36][: len(seen)]
        assert (trial["status"] == "completed") == (seen[-1:] == [36])


def test_stopped_trials_are_pruned_in_the_study_and_have_no_values(finished: Path) -> None:
    import optuna

    study = optuna.load_study(study_name="tiny", storage=f"sqlite:///{finished / 'optuna.db'}")
    states = {t.user_attrs["trial_id"]: t for t in study.trials if "trial_id" in t.user_attrs}
    words = {"completed": "COMPLETE", "stopped": "PRUNED"}
    trials = [t for t in last_states(finished).values() if t["kind"] == "lora"]
    assert {t["status"] for t in trials} == {"completed", "stopped"}
    for trial in trials:
        stored = states[trial["trial_id"]]
        assert stored.state.name == words[trial["status"]]
        assert (stored.values is None) == (trial["status"] == "stopped")


def test_mlflow_holds_a_parent_and_nested_runs(finished: Path) -> None:
    database = sqlite3.connect(finished / "mlflow.db")
    parents = database.execute("select count(*) from tags where key = 'mlflow.parentRunId'").fetchone()[0]
    runs = database.execute("select count(*) from runs").fetchone()[0]
    steps = database.execute("select distinct step from metrics where key = 'eval_loss'").fetchall()
    assert (parents, runs) == (9, 10)
    assert {step for (step,) in steps} == {4, 12, 36}
    front = json.loads((finished / "front.json").read_text())
    assert all(trial["mlflow_run_id"] for trial in front["trials"])


def test_the_end_prints_front_headline_and_paths(finished: Path) -> None:
    printed = (finished.parent / "stdout.txt").read_text()
    for words in ("Quality:", "Memory:", "Speed:", "run/report.html", "9 trials on"):
        assert words in printed, words
    assert (finished / "report.html").stat().st_size > 1_000_000
    assert (finished / "front.png").read_bytes().startswith(b"\x89PNG")


def test_reports(finished: Path) -> None:
    as_json = lorafront("report", finished, "--format", "json", cwd=finished.parent)
    assert json.loads(as_json.stdout)["name"] == "tiny"
    table = lorafront("report", finished, cwd=finished.parent)
    assert table.returncode == 0
    assert "t0001" in table.stdout


def test_the_exported_adapter_gives_the_reported_loss_with_plain_peft(finished: Path, tmp_path: Path) -> None:
    import torch
    from peft import LoraConfig, PeftModel
    from transformers import AutoModelForCausalLM

    from trainables.data import prepare_data
    from trainables.settings import DataSettings

    done = lorafront(
        "export", finished, "--pick", "quality", "--to", tmp_path / "preset", cwd=finished.parent
    )
    assert done.returncode == 0, done.stderr
    assert LoraConfig.from_pretrained(str(tmp_path / "preset")).task_type == "CAUSAL_LM"
    base = AutoModelForCausalLM.from_pretrained(finished.parent / "model", torch_dtype=torch.bfloat16)
    model = PeftModel.from_pretrained(base, str(tmp_path / "preset")).eval()
    settings = DataSettings(source=str(finished.parent / "chat.jsonl"), seq_len=64)
    data = prepare_data(
        settings, str(finished.parent / "model"), train_examples=36, seed=0, cache_dir=tmp_path
    )
    total, count = 0.0, 0
    for example in data.validation:  # one by one, whole logits: nothing of our loop
        ids = torch.from_numpy(example.input_ids).long()[None]
        logits = model(input_ids=ids).logits[0, :-1].float()
        losses = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none")
        chosen = torch.from_numpy(example.supervised[1:])
        total, count = total + losses[chosen].sum().item(), count + int(chosen.sum())
    front = json.loads((finished / "front.json").read_text())
    reported = min(t["eval_loss"] for t in front["trials"] if t["on_front"])
    assert total / count == pytest.approx(reported, abs=2e-3)  # bf16 sums in another order


def test_a_preset_starts_a_sweep(finished: Path, tmp_path: Path) -> None:
    exported = lorafront(
        "export", finished, "--pick", "knee", "--to", tmp_path / "preset", cwd=finished.parent
    )
    done = lorafront(
        "sweep", "--config", tmp_path / "preset" / "preset.yaml", "--out", tmp_path / "again", "--no-baseline",
        "--concurrent", 1, cwd=finished.parent,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (trial,) = last_states(tmp_path / "again").values()
    first = last_states(finished)[exported.stdout.split(":")[0]]
    assert trial["rungs"][-1]["eval_loss"] == first["rungs"][-1]["eval_loss"]


def test_resume_after_the_driver_was_killed(finished: Path, tmp_path: Path) -> None:
    """The journal cut off in the middle of a line is what SIGKILL leaves; the rest must be run again."""
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    before = last_states(run)
    text = (run / "trials.jsonl").read_text()
    cut = text.index('"event":"ended"', text.index("t0005"))
    (run / "trials.jsonl").write_text(text[: cut + 40])
    done = lorafront("resume", run, cwd=finished.parent)
    assert done.returncode == 0, done.stdout + done.stderr
    after = last_states(run)
    assert sum(t["kind"] == "lora" for t in after.values()) == 8
    kept = [
        i for i, t in before.items() if t["status"] == "completed" and i in ("baseline", "t0001", "t0002")
    ]
    assert all(after[i]["eval_loss"] == before[i]["eval_loss"] for i in kept)
    assert json.loads((run / "front.json").read_text())["finished"] is True


def test_over_budget_configs_are_infeasible_and_never_launched(finished: Path, tmp_path: Path) -> None:
    done = lorafront(
        "sweep", "--base-model", "model", "--data", "chat.jsonl", "--trials", 3, "--max-examples", 9,
        "--no-baseline", "--confirm", 0, "--memory-budget", "1000KiB", "--out", tmp_path / "run", *LEARNABLE,
        cwd=finished.parent,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    trials = last_states(tmp_path / "run").values()
    infeasible = [t for t in trials if t["status"] == "infeasible"]
    assert infeasible  # the recommended config, which is tried first
    assert not any(t["rungs"] for t in infeasible)
    corrected = [t["predicted_memory_bytes"] * t.get("memory_correction", 1.0) for t in infeasible]
    assert min(corrected) > 1000 * 1024
    assert all(t["peak_memory_bytes"] < 1000 * 1024 for t in trials if t["status"] != "infeasible")


def test_memory_was_predicted_for_the_batches_that_trials_measure(finished: Path) -> None:
    known = json.loads((finished / "front.json").read_text())["memory_prediction"]
    assert known["trials"] == 8
    assert known["largest_error"] < 0.01
    assert known["correction"] == pytest.approx(1.0, abs=0.005)
    assert "Memory was predicted before 8 trials ran" in (finished.parent / "stdout.txt").read_text()
    html = (finished / "report.html").read_text()
    assert "Memory, predicted and measured" in html
