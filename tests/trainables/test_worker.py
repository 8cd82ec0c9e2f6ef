"""The warm worker: no trial changes another one's result, checkpoints are exact, nothing leaks."""

import gc
import math
from pathlib import Path
from typing import Any

import pytest

from search.errors import DivergedError
from trainables.data import PreparedData, prepare_data
from trainables.modules import LLAMA_PATHS, names_of
from trainables.probe import MemoryProbe
from trainables.settings import DataSettings, ExecutionSettings, TrialConfig, TrialSpec
from trainables.worker import Worker

LLAMA_MODULES = names_of(LLAMA_PATHS)

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def data(folder: Path) -> PreparedData:
    rows = folder.parent / "rows.csv"
    rows.write_text("prompt,response\n" + "".join(f"what is {n}?,it is {n} of course\n" for n in range(60)))
    settings = DataSettings(source=str(rows), seq_len=48)
    return prepare_data(settings, str(folder), train_examples=24, seed=0, cache_dir=folder.parent)


@pytest.fixture(scope="module")
def worker(data: PreparedData) -> Worker:
    return Worker(data, threads=1)


def spec(
    folder: Path, kind: str = "lora", execution: dict[str, Any] | None = None, **config: Any
) -> TrialSpec:
    return TrialSpec(
        trial_id="t0001",
        kind=kind,  # type: ignore[arg-type]
        config=TrialConfig(**{"learning_rate": 1e-2, "batch_size": 4, "rank": 4, **config}),
        execution=ExecutionSettings(**(execution or {})),
        target_modules=() if kind == "full" else LLAMA_MODULES,
        rungs=(6, 24),
        base_model_path=str(folder),
    )


def losses(worker: Worker, trial: TrialSpec) -> list[float]:
    worker.begin(trial)
    found = [worker.train_rung()["eval_loss"] for _ in trial.rungs]
    worker.end()
    return found


OTHERS: list[dict[str, Any]] = [
    {"dropout": 0.3},
    {"init": "pissa"},
    {"use_dora": True},
    {"use_rslora": True, "rank": 16},
    {"kind": "full", "learning_rate": 1e-3},
    {"execution": {"gradient_checkpointing": True, "micro_batch_size": 1}},
]


def test_a_result_does_not_depend_on_the_trials_before(
    worker: Worker, folder: Path, data: PreparedData
) -> None:
    trial = spec(folder, dropout=0.1)
    first = losses(worker, trial)
    for other in OTHERS:
        losses(worker, spec(folder, **other))
        assert losses(worker, trial) == first, other
    assert losses(Worker(data, threads=1), trial) == first
    assert first[1] < first[0]


def test_the_seed_matters(worker: Worker, folder: Path) -> None:
    trial = spec(folder)
    assert losses(worker, trial) != losses(worker, trial.model_copy(update={"seed": 1}))


def test_the_test_split_is_evaluated_only_when_asked_for_and_at_the_end(worker: Worker, folder: Path) -> None:
    plain = spec(folder)
    worker.begin(plain)
    without = [worker.train_rung() for _ in plain.rungs]
    assert not any("test_loss" in result for result in without)
    worker.begin(plain.model_copy(update={"evaluate_test": True, "evaluate_base": True}))
    first, last = (worker.train_rung() for _ in plain.rungs)
    worker.end()
    assert "test_loss" not in first
    assert last["eval_loss"] == without[-1]["eval_loss"]
    assert len(last["test_example_losses"]) == len(worker.data.test)
    assert math.fsum(last["test_example_losses"]) / len(worker.data.test) == pytest.approx(
        last["test_loss"], abs=1e-5
    )
    assert last["test_loss"] not in (last["eval_loss"], last["base_test_loss"])
    assert len(last["base_test_example_losses"]) == len(worker.data.test)


def test_micro_batches_and_checkpointing_change_nothing_but_rounding(worker: Worker, folder: Path) -> None:
    plain = losses(worker, spec(folder))
    for execution in ({"micro_batch_size": 1}, {"micro_batch_size": 3}, {"gradient_checkpointing": True}):
        assert losses(worker, spec(folder, execution=execution)) == pytest.approx(plain, abs=5e-3)


@pytest.mark.parametrize("config", [{"dropout": 0.2}, {"init": "pissa"}, {"use_dora": True}])
def test_a_checkpoint_goes_on_exactly(
    worker: Worker, folder: Path, tmp_path: Path, config: dict[str, Any]
) -> None:
    trial = spec(folder, **config)
    whole = losses(worker, trial)
    worker.begin(trial)
    worker.train_rung()
    worker.save(tmp_path)
    losses(worker, spec(folder, rank=2))
    worker.begin(trial)
    worker.load(tmp_path)
    assert worker.train_rung()["eval_loss"] == whole[1]
    worker.end()
    names = {path.suffix for path in tmp_path.rglob("*") if path.is_file()}
    assert names == {".json", ".safetensors"}


@pytest.mark.parametrize(
    "config", [{"init": "pissa"}, {"init": "pissa", "use_rslora": True}, {"use_dora": True}]
)
def test_the_saved_adapter_is_plain_peft(
    worker: Worker, folder: Path, data: PreparedData, tmp_path: Path, config: dict[str, Any]
) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from trainables.losses import SupervisedHead, eval_batches, evaluate

    worker.begin(spec(folder, **config))
    reported = [worker.train_rung()["eval_loss"] for _ in range(2)][-1]
    worker.save(tmp_path)
    worker.end()
    base = AutoModelForCausalLM.from_pretrained(folder, torch_dtype=torch.bfloat16)
    model = PeftModel.from_pretrained(base, str(tmp_path / "adapter"))
    batches = eval_batches(data.validation, data.pad_token_id, 8, torch.device("cpu"))
    found = evaluate(model, SupervisedHead(model), batches, torch.no_grad).loss
    assert found == pytest.approx(reported, abs=2e-2)  # PiSSA's residual weights were rounded to bf16


def test_memory_does_not_grow_over_twenty_trials(worker: Worker, folder: Path) -> None:
    import torch

    def live_bytes() -> int:
        gc.collect()
        tensors = [thing for thing in gc.get_objects() if isinstance(thing, torch.Tensor)]
        return sum({t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in tensors}.values())

    losses(worker, spec(folder))
    before = live_bytes()
    peaks = set()
    for _ in range(20):
        worker.begin(spec(folder))
        peaks.add(worker.train_rung()["peak_memory_bytes"])
        worker.end()
    assert live_bytes() <= before
    assert len(peaks) == 1


def test_a_diverging_trial_says_so_and_the_worker_goes_on(worker: Worker, folder: Path) -> None:
    before = losses(worker, spec(folder))
    worker.begin(spec(folder))
    assert worker.training is not None
    for parameter in worker.training.module.parameters():
        if parameter.requires_grad:
            parameter.data.fill_(math.nan)
    with pytest.raises(DivergedError, match="training loss became nan at optimizer step 1"):
        worker.train_rung()
    assert losses(worker, spec(folder)) == before


def test_full_fine_tuning_needs_more_memory_than_lora(worker: Worker, folder: Path) -> None:
    peaks = []
    for kind in ("lora", "full"):
        worker.begin(spec(folder, kind))
        peaks.append(worker.train_rung()["peak_memory_bytes"])
        worker.end()
    assert peaks[1] > peaks[0]


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_memory_measured_in_an_ordinary_step_is_that_of_a_probe_step(
    worker: Worker, folder: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    trial = spec(folder, kind).model_copy(update={"rungs": (24,)})
    worker.begin(trial)
    in_passing = worker.train_rung()
    assert worker.training is not None
    monkeypatch.setattr(MemoryProbe, "_plain", False)
    worker.begin(trial)
    probed = worker.train_rung()
    worker.end()
    assert in_passing["eval_loss"] == probed["eval_loss"]
    assert in_passing["peak_memory_bytes"] == pytest.approx(probed["peak_memory_bytes"], rel=1e-3)


def test_what_a_checkpoint_knows_is_not_measured_again(
    worker: Worker, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker.begin(spec(folder))
    measured = worker.train_rung()["peak_memory_bytes"]
    worker.save(tmp_path)
    worker.begin(spec(folder))
    worker.load(tmp_path)
    monkeypatch.setattr(MemoryProbe, "_peak_of", None)
    assert worker.train_rung()["peak_memory_bytes"] == measured
    worker.end()
