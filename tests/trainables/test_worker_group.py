"""Two processes train what one does: same losses, same checkpoints; and one that is lost takes nothing with it."""

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray

from search.errors import DivergedError, OutOfMemoryError, TrialError, WorkerLostError
from trainables.data import PreparedData
from trainables.group_member import PeerError, Whereabouts
from trainables.losses import eval_batches, evaluate
from trainables.modules import LLAMA_PATHS, names_of
from trainables.settings import ExecutionSettings, TrialConfig, TrialSpec
from trainables.shard import Shard
from trainables.worker import Worker
from trainables.worker_group import WorkerGroup

LLAMA_MODULES = names_of(LLAMA_PATHS)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
DEVICES = 2
# Sums in another order: an fp32 loss of 6 has a last digit of 5e-7. In bf16 rounding is 65,536 times as coarse, but
# gradients, adapters and their updates are fp32.
FP32_TOLERANCE, BF16_TOLERANCE = 1e-5, 1e-3
TIMEOUT_S = 15.0


@pytest.fixture(scope="module")
def group(data: PreparedData) -> Iterator[WorkerGroup]:
    ray.init(
        address="local",
        num_cpus=DEVICES,
        include_dashboard=False,
        log_to_driver=False,
        configure_logging=False,
        _node_ip_address="127.0.0.1",
    )
    execution = ExecutionSettings(devices_per_trial=DEVICES, threads=1)
    group = WorkerGroup(data, execution, collective_timeout_s=TIMEOUT_S)
    yield group
    group.end()
    ray.shutdown()


@pytest.fixture(scope="module")
def alone(data: PreparedData) -> Worker:
    return Worker(data, threads=1)


def spec(folder: Path, devices: int, kind: str = "lora", **settings: Any) -> TrialSpec:
    """A trial whose settings are some of the config's and some of the execution's."""
    names = ExecutionSettings.model_fields
    execution = {"dtype": "fp32", "threads": 1, **{k: v for k, v in settings.items() if k in names}}
    config = {k: v for k, v in settings.items() if k not in names}
    return TrialSpec(
        trial_id="t0001",
        kind=kind,  # type: ignore[arg-type]
        config=TrialConfig(**{"learning_rate": 1e-2, "batch_size": 4, "rank": 4, **config}),
        execution=ExecutionSettings(devices_per_trial=devices, **execution),
        target_modules=() if kind == "full" else LLAMA_MODULES,
        rungs=(5, 25),
        base_model_path=str(folder),
        evaluate_base=True,
        evaluate_test=True,
    )


def results(worker: Worker | WorkerGroup, trial: TrialSpec) -> list[dict[str, Any]]:
    worker.begin(trial)
    return [worker.train_rung() for _ in trial.rungs]


CASES: list[dict[str, Any]] = [
    {},
    {"micro_batch_size": 1},
    {"batch_size": 8, "micro_batch_size": 3},
    {"gradient_checkpointing": True, "use_dora": True},
    {"kind": "full", "learning_rate": 1e-3},
    {"dtype": "bf16"},
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_two_devices_train_what_one_does(
    group: WorkerGroup, alone: Worker, folder: Path, case: dict[str, Any]
) -> None:
    together, single = results(group, spec(folder, DEVICES, **case)), results(alone, spec(folder, 1, **case))
    alone.end()
    tolerance = BF16_TOLERANCE if case.get("dtype") == "bf16" else FP32_TOLERANCE
    for ours, theirs in zip(together, single, strict=True):
        for name in ("eval_loss", "train_loss", "eval_loss_stderr", "base_eval_loss", "base_test_loss"):
            assert ours[name] == pytest.approx(theirs[name], abs=tolerance), name
        assert ours["example_losses"] == pytest.approx(theirs["example_losses"], abs=10 * tolerance)
        for name in ("trainable_parameters", "examples_seen", "finished"):
            assert ours[name] == theirs[name]
    assert together[-1]["test_loss"] == pytest.approx(single[-1]["test_loss"], abs=tolerance)
    shares_activations = "micro_batch_size" not in case and case.get("kind") != "full"
    assert not shares_activations or together[0]["peak_memory_bytes"] < single[0]["peak_memory_bytes"]


def test_a_checkpoint_goes_on_exactly_also_after_another_trial(
    group: WorkerGroup, folder: Path, tmp_path: Path
) -> None:
    trial = spec(folder, DEVICES, dropout=0.1)
    whole = results(group, trial)
    group.begin(trial)
    first = group.train_rung()
    group.save(tmp_path)
    assert {path.suffix for path in tmp_path.rglob("*") if path.is_file()} == {".json", ".safetensors"}
    before = group.pids
    results(group, spec(folder, DEVICES, rank=2))
    group.begin(trial)
    group.load(tmp_path)
    second = group.train_rung()
    assert group.pids == before
    same = ("eval_loss", "train_loss", "example_losses", "peak_memory_bytes", "base_eval_loss")
    assert [{name: result[name] for name in same} for result in (first, second)] == [
        {name: result[name] for name in same} for result in whole
    ]


class HalfHeard(Shard):
    """One of two devices, which hears nothing of the other."""

    def total(self, tensor: Any) -> Any:
        return tensor


def test_each_batch_is_evaluated_on_one_device(alone: Worker, folder: Path) -> None:
    alone.begin(spec(folder, 1))
    assert alone.training is not None
    model, head, autocast = alone.training.model, alone.training.head, alone.training.autocast
    batches = eval_batches(alone.data.validation, alone.data.pad_token_id, 2, alone.device)
    whole = evaluate(model, head, batches, autocast)
    shares = [evaluate(model, head, batches, autocast, HalfHeard(rank, 2)) for rank in range(2)]
    assert all(
        0 in counts and sum(counts) > 0 for counts in zip(*(share.counts for share in shares), strict=True)
    )
    for name in ("sums", "counts"):
        parts = zip(*(getattr(share, name) for share in shares), strict=True)
        assert tuple(map(sum, parts)) == getattr(whole, name)
    alone.end()


def test_memory_is_the_worst_devices_and_what_is_saved(
    group: WorkerGroup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = {
        "train_rung": [
            {"eval_loss": 2.0, "train_seconds": 5.0, "peak_memory_bytes": 7, "peak_operator": "a"},
            {"eval_loss": 2.0, "train_seconds": 6.0, "peak_memory_bytes": 9, "peak_operator": "b"},
        ],
        "save": [{"state.json": b"{}", "adapter/weights": b"0"}, {"optimizer-1": b"1"}],
    }
    asked: list[tuple[Any, ...]] = []

    def answer(*question: Any) -> Any:
        asked.append(question)
        return answers[question[0]]

    monkeypatch.setattr(group, "_ask", answer)
    assert group.train_rung() == answers["train_rung"][0] | {"peak_memory_bytes": 9, "peak_operator": "b"}
    group.save(tmp_path)
    assert asked[-1] == ("save", {"peak_memory_bytes": 9, "peak_operator": "b"})
    written = {str(p.relative_to(tmp_path)): p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    assert written == answers["save"][0] | answers["save"][1]


OOM, DIVERGED = OutOfMemoryError("out of memory"), DivergedError("diverged")
LOST = PeerError("RuntimeError: connection closed by peer")
DEAD = ray.exceptions.ActorDiedError()


@pytest.mark.parametrize(
    ("answers", "errors", "words", "ends"),
    [
        ({}, {0: DIVERGED, 1: DivergedError("diverged")}, "^diverged$", False),
        ({}, {0: DIVERGED, 1: TrialError("other")}, "^diverged$", True),
        ({}, {0: OOM, 1: OutOfMemoryError("out of memory")}, "^out of memory$", True),
        ({}, {0: LOST, 1: OOM}, "^out of memory$", True),
        ({}, {1: DIVERGED}, "^diverged$", True),  # the other one waits for it and has not answered yet
        ({}, {0: LOST, 1: DEAD}, "^worker 1 of 2 died without a message", True),
        ({0: 1}, {1: DEAD}, "^worker 1 of 2 died", True),
        ({}, {1: LOST}, r"^worker 0 of 2 hangs \(train_rung: .*closed by peer\)$", True),
        ({}, {0: LOST, 1: LOST}, "^the workers lost each other: .*closed by peer$", True),
    ],
)
def test_who_failed_first_is_what_is_said(
    group: WorkerGroup,
    monkeypatch: pytest.MonkeyPatch,
    answers: dict[int, Any],
    errors: dict[int, Exception],
    words: str,
    ends: bool,
) -> None:
    ended: list[bool] = []
    monkeypatch.setattr(group, "end", lambda: ended.append(True))
    monkeypatch.setattr(group, "_where", [Whereabouts(0, "", "", None)] * 2)
    said = group._failure("train_rung", answers, errors, 2)
    assert re.search(words, str(said)), said
    assert isinstance(said, WorkerLostError) == (not set(errors.values()) & {OOM, DIVERGED})
    assert bool(ended) == ends


def test_what_all_workers_find_costs_none_of_them(group: WorkerGroup, folder: Path) -> None:
    trial = spec(folder, DEVICES)
    before = results(group, trial)[-1]["eval_loss"]
    pids = group.pids
    with pytest.raises(DivergedError, match="diverged"):
        results(group, spec(folder, DEVICES, learning_rate=1.0, max_grad_norm=1e9, init="pissa", alpha=1e30))
    assert group.pids == pids
    assert results(group, trial)[-1]["eval_loss"] == before


def test_a_worker_that_hangs_ends_the_trial_and_the_next_one_has_new_workers(
    group: WorkerGroup, folder: Path
) -> None:
    trial = spec(folder, DEVICES)
    before = results(group, trial)[-1]["eval_loss"]
    processes = [psutil.Process(pid) for pid in group.pids]
    group.begin(trial)
    os.kill(processes[1].pid, signal.SIGSTOP)
    with pytest.raises(WorkerLostError, match=r"worker 1 of 2 hangs \(train_rung: .*[Tt]imed out"):
        group.train_rung()
    assert group.pids == []
    assert psutil.wait_procs(processes, timeout=30)[1] == []
    assert results(group, trial)[-1]["eval_loss"] == before


def test_the_log_of_a_worker_that_crashes_is_in_the_error(group: WorkerGroup, folder: Path) -> None:
    group.begin(spec(folder, DEVICES))
    first, second = (psutil.Process(pid) for pid in group.pids)
    os.kill(first.pid, signal.SIGSEGV)
    with pytest.raises(WorkerLostError, match=r"worker 0 of 2 died; its log ends with: .*") as raised:
        group.train_rung()
    assert "File " in str(raised.value) or "SIGSEGV" in str(raised.value), str(raised.value)
    assert psutil.wait_procs([first, second], timeout=30)[1] == []
