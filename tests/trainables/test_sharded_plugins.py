"""ZeRO and 4-bit base models on two devices, as far as that can be seen without a GPU (see `pretended_gpus`)."""

import socket
import weakref
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from search.errors import DivergedError
from tests.trainables.pretended_gpus import pretend, train_on_two
from tests.trainables.shared_trials import spec as shared_spec
from trainables.data import PreparedData
from trainables.memory import innermost_optimizer
from trainables.settings import TrialSpec
from trainables.training import Training
from trainables.worker import Worker

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
spec = partial(shared_spec, threads=1)
# With the tolerance to one device with ddp. ZeRO in bf16 rounds adapters to bf16 at every step, as ddp does not.
CASES: list[tuple[dict[str, Any], float]] = [
    ({"plugin": "zero1", "dtype": "fp32", "micro_batch_size": 1}, 1e-5),
    ({"plugin": "zero2", "dtype": "fp32", "micro_batch_size": 1}, 1e-5),
    ({"plugin": "zero2", "dtype": "bf16"}, 2e-3),
    ({"plugin": "zero1", "dtype": "bf16", "kind": "full"}, 2e-2),
    ({"plugin": "zero2", "dtype": "bf16", "quantize": True}, 2e-3),
    ({"plugin": "ddp", "dtype": "bf16", "quantize": True}, 2e-3),
]


@pytest.fixture(scope="module")
def on_two(data: PreparedData, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """Per case the losses of both rungs, and of the second one after restoring, from two processes."""
    out = tmp_path_factory.mktemp("two")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    specs = [spec(folder, 2, **case) for case, _ in CASES]
    torch.multiprocessing.spawn(train_on_two, (data, specs, port, out), nprocs=2)
    first, second = (torch.load(out / f"results-{rank}", weights_only=True) for rank in range(2))
    assert first == second
    return list(first)


def losses(worker: Worker, trial: TrialSpec) -> list[float]:
    worker.begin(trial)
    found = [worker.train_rung()["eval_loss"] for _ in trial.rungs]
    worker.end()
    return found


@pytest.mark.parametrize("number", range(len(CASES)), ids=lambda number: str(CASES[number][0]))
def test_two_devices_train_what_one_does_and_go_on_exactly(
    on_two: list[Any], data: PreparedData, folder: Path, number: int
) -> None:
    case, tolerance = CASES[number]
    assert isinstance(on_two[-1], list), on_two[-1]
    alone = losses(Worker(data, threads=1), spec(folder, **{**case, "plugin": "ddp"}))
    assert on_two[number][:2] == pytest.approx(alone, abs=tolerance)
    if case.get("kind") != "full":
        assert on_two[number][2] == on_two[number][1]


@pytest.mark.parametrize("kind", ["lora", "full"])
@pytest.mark.parametrize("plugin", ["ddp", "zero1", "zero2"])
def test_nothing_of_a_trial_outlives_it(
    data: PreparedData, folder: Path, monkeypatch: pytest.MonkeyPatch, plugin: str, kind: str
) -> None:
    """ZeRO's hooks tie the optimizer into cycles, which held 16 GiB on a GPU while the next trial was measured."""
    pretend(monkeypatch)
    worker = Worker(data, threads=1)
    worker.begin(spec(folder, kind=kind, plugin=plugin))
    worker.train_rung()
    left = tensors_of_trial(worker)
    worker.end()
    assert [ref for ref in left if ref() is not None] == []


def test_nothing_of_a_failed_trial_outlives_it(
    data: PreparedData, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch)
    worker = Worker(data, threads=1)
    worker.begin(spec(folder, kind="full", plugin="zero1"))
    worker.train_rung()
    left = tensors_of_trial(worker)
    monkeypatch.setattr(Training, "step_on", lambda training, parts: (float("nan"), 1))
    with pytest.raises(DivergedError):
        worker.train_rung()
    worker.end()
    assert [ref for ref in left if ref() is not None] == []


def tensors_of_trial(worker: Worker) -> list[weakref.ref[torch.Tensor]]:
    """What the trial in training trains, and its optimizer's states."""
    assert worker.training is not None
    optimizer = innermost_optimizer(worker.training.optimizer)
    states = [v for state in optimizer.state.values() for v in state.values() if torch.is_tensor(v)]
    trained = [p for p in worker.training.module.parameters() if p.requires_grad]
    return [weakref.ref(tensor) for tensor in (*states, *trained)]


def test_the_hybrid_plugin_gets_a_new_base_for_every_trial(
    data: PreparedData, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch)
    worker, trial = Worker(data, threads=1), spec(folder, plugin="hybrid")
    assert losses(worker, trial) == losses(worker, trial)


def test_an_optimizer_in_8_bits_goes_on_exactly(data: PreparedData, folder: Path, tmp_path: Path) -> None:
    worker = Worker(data, threads=1)
    trial = spec(folder, optimizer="adamw-8bit")
    trial = trial.model_copy(
        update={"config": trial.config.model_copy(update={"rank": 128})}
    )  # 4096 elements
    worker.begin(trial)
    worker.train_rung()
    worker.save(tmp_path)
    whole = worker.train_rung()["eval_loss"]
    assert worker.training is not None
    states = innermost_optimizer(worker.training.optimizer).state.values()
    assert torch.uint8 in {state["state1"].dtype for state in states}
    worker.begin(trial)
    worker.load(tmp_path)
    assert worker.train_rung()["eval_loss"] == whole
    # Of one batch, memory is measured in that step, with states that were made for it.
    assert losses(worker, trial.model_copy(update={"rungs": (4,)}))[0] > 0
