"""After the search: confirmation with new seeds, also across a kill, and a sweep that starts from an earlier one."""

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import LEARNABLE, LORAFRONT, environment, lorafront
from tests.integration.test_sweep import last_states

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

SWEEP = [
    "sweep", "--base-model", "model", "--data", "chat.jsonl", "--trials", 3, "--max-examples", 9, "--confirm", 2,
    "--concurrent", 1, *LEARNABLE,
]  # fmt: skip


def front_of(run: Path) -> dict[str, Any]:
    return json.loads((run / "front.json").read_text())


@pytest.fixture(scope="module")
def confirmed(workshop: Path) -> Path:
    """A sweep that was killed while the first replicate had just ended, and resumed."""
    run = workshop / "confirmed"
    command = [LORAFRONT, *map(str, SWEEP), "--out", str(run)]
    process = subprocess.Popen(
        command, cwd=workshop, env=environment(workshop), stdout=subprocess.DEVNULL, start_new_session=True
    )
    journal, deadline = run / "trials.jsonl", time.monotonic() + 600
    while not (journal.exists() and re.search('"event":"ended".*"kind":"replicate"', journal.read_text())):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    done = lorafront("resume", run, cwd=workshop)
    assert done.returncode == 0, done.stdout + done.stderr
    (workshop / "confirmed.txt").write_text(done.stdout)
    return run


def test_every_front_member_is_trained_again_with_new_seeds_once(confirmed: Path) -> None:
    trials = last_states(confirmed)
    replicates = [t for t in trials.values() if t["kind"] == "replicate"]
    front = front_of(confirmed)
    members = [t for t in front["trials"] if t["on_front"]]
    assert sorted((t["replicate_of"], t["seed"]) for t in replicates) == sorted(
        (t["trial_id"], seed) for t in members for seed in (1, 2)
    )
    assert sum(t["kind"] == "lora" for t in trials.values()) == len(front["trials"]) == 3
    for member in members:
        own = [t for t in replicates if t["replicate_of"] == member["trial_id"]]
        assert {json.dumps(t["config"], sort_keys=True) for t in own} == {
            json.dumps(member["config"], sort_keys=True)
        }
        mean = sum(t["test_loss"] for t in own) / 2
        assert member["confirmation"]["test_loss"] == pytest.approx(mean, abs=1e-5)
        assert len({t["eval_loss"] for t in own} | {member["eval_loss"]}) == 3  # other seeds, other losses
    assert front["finished"] is True
    assert front["headlines"]["knee"]["test_retention"] is not None


def test_it_is_printed_and_reported_apart_from_validation(confirmed: Path) -> None:
    printed = (confirmed.parent / "confirmed.txt").read_text()
    assert "Confirmed with new seeds on the test split" in printed
    assert "evaluations on the validation examples" in printed
    html = (confirmed / "report.html").read_text()
    assert "Confirmed on the test split" in html
    assert "validation loss, by which it was picked" in html


def test_a_finished_sweep_trains_nothing_again_on_resume(confirmed: Path) -> None:
    before = (confirmed / "trials.jsonl").read_text().count('"event":"result"')
    done = lorafront("resume", confirmed, cwd=confirmed.parent)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (confirmed / "trials.jsonl").read_text().count('"event":"result"') == before


def test_a_warm_start_takes_trials_over_and_keeps_their_adapters(confirmed: Path, tmp_path: Path) -> None:
    run = tmp_path / "warm"
    done = lorafront(
        *SWEEP, "--confirm", 0, "--trials", 2, "--warm-start", confirmed, "--out", run, cwd=confirmed.parent
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 trials taken over, 0 more configs tried first" in done.stdout
    earlier, trials = last_states(confirmed), last_states(run)
    adopted = [t for t in trials.values() if t.get("adopted_from") and t["kind"] == "lora"]
    assert [t["eval_loss"] for t in adopted] == [
        t["eval_loss"] for t in earlier.values() if t["kind"] == "lora"
    ]
    own = [t for t in trials.values() if t["kind"] == "lora" and not t.get("adopted_from")]
    assert [t["trial_id"] for t in own] == ["t0001", "t0002"]
    configs = [json.dumps(t["config"], sort_keys=True) for t in (*own, *adopted)]
    assert len(set(configs)) == 5
    assert trials["baseline"]["adopted_from"] == "smollm2-135m/baseline"  # not trained again
    members = [t["trial_id"] for t in front_of(run)["trials"] if t["on_front"]]
    for trial_id in members:
        exported = lorafront("export", run, "--pick", trial_id, "--to", tmp_path / trial_id, cwd=tmp_path)
        assert exported.returncode == 0, exported.stderr
        assert (tmp_path / trial_id / "adapter_model.safetensors").is_file()


def test_a_preset_is_tried_first(confirmed: Path, tmp_path: Path) -> None:
    exported = lorafront(
        "export", confirmed, "--pick", "quality", "--to", tmp_path / "p", cwd=confirmed.parent
    )
    assert exported.returncode == 0, exported.stderr
    config = last_states(confirmed)[exported.stdout.split(":")[0]]["config"]
    done = lorafront(
        *SWEEP, "--confirm", 0, "--trials", 1, "--no-baseline", "--warm-start", tmp_path / "p", "--out",
        tmp_path / "run", cwd=confirmed.parent,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (trial,) = last_states(tmp_path / "run").values()
    assert trial["config"]["alpha"] == pytest.approx(config["alpha"])
    assert {**trial["config"], "alpha": 0} == {**config, "alpha": 0}
