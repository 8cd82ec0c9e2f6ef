"""Run folders that version 0.1.0 made on torch 2.5.1, transformers 4.51.3 and peft 0.13.2: nothing of them is lost.

`data/runs-0.1.0.tar.xz` holds what two sweeps left, with the model that transformers 4 saved and the data. It was made in
that environment, in an empty folder with `tiny_llama("model", hidden=16, vocab=384)` and 48 rows of `write_chat`:

    lorafront sweep --base-model model --data chat.jsonl --max-examples 36 --name old --concurrent 1 --trials 8 --seed 3
        --set data.seq_len=64 --set execution.dtype=fp32 --set 'space.rank=[2,4,8]' --set 'space.use_dora=[false,true]'
        --set 'space.learning_rate={low: 1e-3, high: 3e-2, log: true}' --out run --confirm 1

`cut` is the same with ``--no-baseline --confirm 0``, interrupted after three trials. Left out are mlflow.db (MLflow is
the same), reports, Ray's own state, and in `run` the checkpoints that are not of the front.
"""

import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import lorafront
from tests.integration.test_sweep import last_states

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]
ARCHIVE = Path(__file__).parent / "data" / "runs-0.1.0.tar.xz"
FRONT = ["t0001", "t0008"]  # of `run`: DoRA on every linear module, plain LoRA on q and v
# fp32 on one machine: differences were 0. Another processor's kernels may sum in another order; training gains 8e-3.
ROUNDING = 1e-5


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """The folder in which the old sweeps were run."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path / "old", filter="data")
    return tmp_path / "old"


def front(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run / "front.json").read_text())
    return content


def shared(front: dict[str, Any]) -> dict[str, Any]:
    """A front but for its trials' MLflow runs: of trials that MLflow heard of late, only `front.json` has them."""
    trials = [trial | {"mlflow_run_id": None} for trial in front["trials"]]
    return front | {"trials": trials}


def losses(trial: dict[str, Any]) -> list[float]:
    """All that a trial measured: train and validation loss of every rung."""
    return [rung[name] for rung in trial["rungs"] for name in ("train_loss", "eval_loss")]


def plain_peft_loss(folder: Path, adapter: Path) -> float:
    """Validation loss in fp32, example by example, by transformers and PEFT alone: nothing of our loop."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from trainables.data import prepare_data
    from trainables.settings import DataSettings

    base = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)
    model = PeftModel.from_pretrained(base, str(adapter)).eval()
    settings = DataSettings(source=str(folder / "chat.jsonl"), seq_len=64)
    data = prepare_data(settings, str(folder / "model"), train_examples=36, seed=3, cache_dir=folder)
    total, count = 0.0, 0
    for example in data.validation:
        ids = torch.from_numpy(example.input_ids).long()[None]
        with torch.no_grad():
            logits = model(input_ids=ids).logits[0, :-1]
        each = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none")
        chosen = torch.from_numpy(example.supervised[1:])
        total, count = total + each[chosen].sum().item(), count + int(chosen.sum())
    return total / count


def test_reports_open(old: Path) -> None:
    before = front(old / "run")
    table = lorafront("report", "run", cwd=old)
    assert table.returncode == 0, table.stderr
    assert all(trial["trial_id"] in table.stdout for trial in before["trials"])
    as_json = lorafront("report", "run", "--format", "json", cwd=old)
    assert shared(json.loads(as_json.stdout)) == shared(before)
    html = lorafront("report", "run", "--format", "html", cwd=old)
    assert html.returncode == 0, html.stderr
    text = (old / "run" / "report.html").read_text()
    assert "transformers 4.51.3" in text
    assert all(trial["trial_id"] in text for trial in before["trials"])


@pytest.mark.parametrize("name", FRONT)
def test_an_exported_adapter_gives_the_reported_loss_with_plain_peft(old: Path, name: str) -> None:
    done = lorafront("export", "run", "--pick", name, "--to", "preset", cwd=old)
    assert done.returncode == 0, done.stderr
    reported = {trial["trial_id"]: trial["eval_loss"] for trial in front(old / "run")["trials"]}
    assert abs(reported[name] - front(old / "run")["base"]["eval_loss"]) > 100 * ROUNDING
    assert plain_peft_loss(old, old / "preset") == pytest.approx(reported[name], abs=ROUNDING)


def test_a_sweep_starts_warm_from_it(old: Path) -> None:
    """The same settings: all eight trials and full fine-tuning count as run, and only a ninth trial is trained."""
    config = ["--config", "run/sweep.yaml", "--name", "warm", "--trials", 1, "--confirm", 0]
    done = lorafront("sweep", *config, "--warm-start", "run", "--out", "warm", cwd=old)
    assert done.returncode == 0, done.stdout + done.stderr
    said = "8 trials taken over as measured with torch 2.5.1, transformers 4.51.3, peft 0.13.2"
    assert f"warm start: {said}, 0 more configs tried first" in done.stdout
    before, after = last_states(old / "run"), last_states(old / "warm")
    adopted = {t["adopted_from"]: t for t in after.values() if t.get("adopted_from")}
    assert set(adopted) == {f"old/{name}" for name, t in before.items() if t["kind"] != "replicate"}
    assert all(losses(t) == losses(before[source.partition("/")[2]]) for source, t in adopted.items())
    (new,) = (t for name, t in after.items() if name.startswith("t"))
    assert new["status"] in ("completed", "stopped")
    members = [t for t in front(old / "warm")["trials"] if t["on_front"] and t.get("adopted_from")]
    assert members
    for trial in members:  # what was taken over can be exported from the new run
        exported = lorafront(
            "export", "warm", "--pick", trial["trial_id"], "--to", trial["trial_id"], cwd=old
        )
        assert exported.returncode == 0, exported.stderr


def test_an_unfinished_one_goes_on_as_if_nothing_had_changed(old: Path) -> None:
    """Old checkpoints are trained on here, other trials from the start: all as the old software did in `run`."""
    begun = last_states(old / "cut")
    done = lorafront("resume", "cut", cwd=old)
    assert done.returncode == 0, done.stdout + done.stderr
    note = "note: so far it ran with torch 2.5.1, transformers 4.51.3, peft 0.13.2; from now on with what is"
    assert note in done.stdout
    there, here = last_states(old / "run"), last_states(old / "cut")
    assert front(old / "cut")["finished"] is True
    assert len(here) == 8 > len(begun)
    assert any(len(here[name]["rungs"]) > len(trial["rungs"]) for name, trial in begun.items())
    for name, trial in here.items():
        assert trial["config"] == there[name]["config"]
        assert trial["status"] == there[name]["status"]
        assert losses(trial) == pytest.approx(losses(there[name]), abs=ROUNDING)
        assert trial["peak_memory_bytes"] == pytest.approx(there[name]["peak_memory_bytes"], rel=1e-3)


def test_old_rope_theta_is_honoured(old: Path) -> None:
    """Version 4 of transformers wrote it beside the other fields, version 5 keeps it in ``rope_parameters``."""
    from trainables.base_models import load_base_model

    config = json.loads((old / "model" / "config.json").read_text())
    assert config["rope_theta"] == 10_000.0
    (old / "model" / "config.json").write_text(json.dumps(config | {"rope_theta": 500_000.0}))
    model = load_base_model(old / "model", dtype="fp32", device="cpu")
    inverse = model.model.rotary_emb.inv_freq.double()
    expected = [500_000.0 ** (-2 * n / config["head_dim"]) for n in range(config["head_dim"] // 2)]
    assert inverse.tolist() == pytest.approx(expected, rel=1e-6)
