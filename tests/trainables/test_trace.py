"""Tracing against measuring (the real loop through ColossalAI's Booster), whole traces, and the closed form."""

import gc
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

from search.errors import InputError
from tests.trainables.counted_step import ALL_LINEAR, ATTENTION_QV, MLP, process_group_of_one
from tests.trainables.test_memory_model import LLAMA3_8B, SMOLLM2_135M
from trainables import trace
from trainables.chat import TokenizedExample
from trainables.cpu_attention import use_short_attention
from trainables.lifetimes import Lifetimes
from trainables.memory import DeviceMemory
from trainables.memory_model import predict_peak
from trainables.quantization import quantize_base
from trainables.settings import Architecture, ExecutionSettings, TrialConfig, TrialSpec
from trainables.timeline import MisalignedError
from trainables.trace import trace_peak
from trainables.training import Training, base_dtype, quantized_to

pytestmark = pytest.mark.timeout(300)

LLAMA3_70B = LLAMA3_8B.model_copy(
    update={"hidden_size": 8192, "intermediate_size": 28672, "num_layers": 80, "num_heads": 64}
)
NARROW = Architecture.from_model_config(
    {
        "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 9, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": 300, "tie_word_embeddings": True,
    }
)  # fmt: skip
CHECKPOINTING = {"gradient_checkpointing": True}
REENTRANT = CHECKPOINTING | {"reentrant_checkpointing": True}


@pytest.fixture(autouse=True)
def empty_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORAFRONT_CACHE", str(tmp_path_factory.getbasetemp() / "traces"))


def forget() -> None:
    """Everything that this process remembers of earlier traces."""
    trace._peak.cache_clear()
    trace._traced.cache_clear()
    trace._first.clear()
    trace._is_arithmetic.clear()


class Case:
    """One training: how to trace it, and how to run it for real."""

    def __init__(
        self,
        arch: Architecture,
        targets: tuple[str, ...] = ALL_LINEAR,
        kind: str = "lora",
        seq_len: int = 64,
        supervised: int = 40,
        device: str = "cpu",
        execution: dict[str, Any] | None = None,
        **config: Any,
    ) -> None:
        self.arch, self.kind, self.device = arch, kind, device
        self.targets = targets if kind == "lora" else ()
        self.seq_len, self.supervised = seq_len, supervised
        self.config = TrialConfig(**{"batch_size": 2, **config})
        self.execution = ExecutionSettings(**(execution or {}))

    def predict(self, how: Any = trace_peak, **changes: Any) -> Any:
        return how(
            changes.get("arch", self.arch),
            self.config.model_copy(update=changes.get("config", {})),
            self.execution,
            target_modules=self.targets,
            seq_len=changes.get("seq_len", self.seq_len),
            kind=self.kind,
            supervised_fraction=self.supervised / self.seq_len,
            device=self.device,
        )

    def measure(self) -> DeviceMemory:
        """Random weights of the real architecture, the loop's own probe."""
        from transformers import LlamaConfig, LlamaForCausalLM

        a, device = self.arch, torch.device(self.device)
        spec = TrialSpec(
            trial_id="t", kind=self.kind, config=self.config, execution=self.execution,  # type: ignore[arg-type]
            target_modules=self.targets, rungs=(self.config.batch_size,), base_model_path="",
        )  # fmt: skip
        shape = LlamaConfig(
            hidden_size=a.hidden_size, intermediate_size=a.intermediate_size, num_hidden_layers=a.num_layers,
            num_attention_heads=a.num_heads, num_key_value_heads=a.num_kv_heads, vocab_size=a.vocab_size,
            tie_word_embeddings=a.tie_word_embeddings, use_cache=False, attn_implementation="sdpa",
        )  # fmt: skip
        base: Any = LlamaForCausalLM(shape).to(dtype=base_dtype(spec))
        precision = quantized_to(spec)
        base = quantize_base(base, precision, base_dtype(spec), device) if precision else base.to(device)
        tokens = np.arange(self.seq_len) % a.vocab_size
        example = TokenizedExample(tokens, tokens.size - np.arange(tokens.size) <= self.supervised)
        data: Any = SimpleNamespace(train=[example] * self.config.batch_size, pad_token_id=0)
        return Training(spec, base, data, device).probe.extra_step()


GRID: list[dict[str, Any]] = [
    {"targets": ATTENTION_QV, "rank": 4},
    {"targets": ATTENTION_QV, "rank": 64, "execution": CHECKPOINTING},
    {"targets": ALL_LINEAR, "rank": 16, "batch_size": 4, "seq_len": 48, "supervised": 10},
    {"targets": MLP, "rank": 16, "dropout": 0.05, "execution": CHECKPOINTING},
    {"targets": ALL_LINEAR, "rank": 8, "use_dora": True, "supervised": 8},
    {"targets": ALL_LINEAR, "rank": 8, "batch_size": 4, "execution": {"micro_batch_size": 2} | REENTRANT},
    {"targets": ALL_LINEAR, "rank": 8, "seq_len": 272, "batch_size": 1},  # beyond the short attention
    {"kind": "full", "batch_size": 1, "seq_len": 32, "supervised": 20, "execution": CHECKPOINTING},
]


@pytest.mark.parametrize("case", GRID, ids=str)
def test_traced_and_measured_peaks_of_the_default_model_agree(case: dict[str, Any]) -> None:
    use_short_attention()
    training = Case(Architecture.from_model_config(SMOLLM2_135M), **case)
    with process_group_of_one():
        measured = training.measure()
    predicted = training.predict()
    assert predicted.peak_bytes == pytest.approx(measured.peak_bytes, rel=0.01)
    assert predicted.operator is not None


@pytest.mark.gpu
@pytest.mark.parametrize("case", GRID, ids=str)
def test_traced_peak_is_within_three_percent_of_the_cuda_allocators(case: dict[str, Any]) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device: compares with torch.cuda.max_memory_allocated")
    before = held_on_cuda()
    with process_group_of_one():
        training = Case(Architecture.from_model_config(SMOLLM2_135M), device="cuda", **case)
        measured = training.measure()
    tolerance = 0.05 if case.get("use_dora") else 0.03  # with DoRA 3.8 % more than traced was seen on an H200
    assert training.predict().peak_bytes == pytest.approx(measured.peak_bytes - before, rel=tolerance)


def held_on_cuda() -> int:
    """Bytes that are allocated before there is a model: cuBLAS's workspaces, of the forward and the backward thread."""
    for dtype in (torch.bfloat16, torch.float32):
        matrix = torch.ones(64, 64, dtype=dtype, device="cuda", requires_grad=True)
        (matrix @ matrix).sum().backward()
    del matrix
    gc.collect()
    return torch.cuda.memory_allocated()


ANY_LOOP: list[dict[str, Any]] = [
    {"device": "cpu", "execution": REENTRANT},
    {"use_dora": True, "dropout": 0.1, "device": "cuda"},
    {"device": "cuda", "execution": {"plugin": "zero2-offload"} | CHECKPOINTING},
    {"kind": "full", "device": "cuda", "execution": {"plugin": "zero2", "devices_per_trial": 2}},
    {"device": "cuda", "execution": {"plugin": "hybrid"}},
    {"device": "cuda", "execution": CHECKPOINTING, "supervised": 2, "seq_len": 16},  # peak in the layers
    {"device": "cuda", "execution": {"quantize": True, "micro_batch_size": 1}},
    {"device": "cuda", "execution": {"optimizer": "adamw-8bit"}, "rank": 64},
]


@pytest.mark.parametrize("case", ANY_LOOP, ids=str)
def test_extrapolated_traces_are_exact(
    case: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    training = Case(NARROW, **case)
    eight_bit = training.execution.optimizer == "adamw-8bit"  # whose bytes are no linear function of the rank
    points = [{"rank": r, "batch_size": n} for r in ((4,) if eight_bit else (4, 8, 32)) for n in (4, 6, 8)]
    depths = []
    original = trace._trace
    monkeypatch.setattr(
        trace, "_trace", lambda request, layers: depths.append(layers) or original(request, layers)
    )
    forget()
    extrapolated = [training.predict(config=point) for point in points]
    longer = training.predict(config=points[-1], seq_len=3 * training.seq_len // 2)
    assert sorted(depths) == [4, 4, 5, 5]  # two sizes of the step, at two depths
    monkeypatch.setattr(trace, "_DEPTHS", (4, 1000))
    monkeypatch.setenv("LORAFRONT_CACHE", str(tmp_path))
    forget()
    assert training.predict(config=points[-1]) == extrapolated[-1]  # the furthest from what was traced
    forget()
    assert training.predict(config=points[-1], seq_len=3 * training.seq_len // 2) == longer
    assert depths[4:] == [9, 9]
    forget()


def test_traces_that_do_not_align_are_replaced_by_whole_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> Any:
        raise MisalignedError("no")

    training = Case(NARROW)
    forget()
    exact = training.predict()
    monkeypatch.setattr(trace, "extrapolate", refuse)
    monkeypatch.setattr(Lifetimes, "resized", refuse)
    forget()
    assert training.predict() == exact
    forget()


@pytest.mark.parametrize(
    "case",
    [
        {"targets": ALL_LINEAR, "rank": 64},
        {"targets": ALL_LINEAR, "rank": 64, "arch": LLAMA3_70B},
        {"targets": ("gate_proj",), "rank": 8},
        {"rank": 16, "execution": {"plugin": "zero2"} | CHECKPOINTING, "supervised": 100},
        {"rank": 16, "dropout": 0.1, "execution": {"plugin": "hybrid"}},
        {"rank": 16, "execution": {"plugin": "hybrid", "dtype": "fp16", "micro_batch_size": 1}},
        {"rank": 16, "execution": {"plugin": "zero1", "micro_batch_size": 1} | CHECKPOINTING},
        {"rank": 16, "execution": {"quantize": True, "optimizer": "adamw-8bit"}},
        {"rank": 16, "execution": {"quantize": True, "quantize_type": "int8"}},
        {"rank": 16, "use_dora": True},
        {"rank": 16, "use_dora": True, "execution": {"quantize": True} | CHECKPOINTING},
        {
            "rank": 16,
            "use_dora": True,
            "targets": ATTENTION_QV,
            "execution": {"plugin": "zero2"} | CHECKPOINTING,
        },
        {"rank": 16, "use_dora": True, "dropout": 0.1},
        {"rank": 64, "execution": CHECKPOINTING},
        {"kind": "full", "execution": {"plugin": "zero2-offload", "devices_per_trial": 2}},
    ],
    ids=str,
)
def test_closed_form_is_within_0_3_percent_of_the_trace(case: dict[str, Any]) -> None:
    # Measured: at most 0.23 % (ZeRO under checkpointing), else 0.07 %. It knows no re-entrant checkpoints.
    training = Case(**{"arch": LLAMA3_8B, "seq_len": 1024, "supervised": 1000, "device": "cuda"} | case)
    assert training.predict(predict_peak).peak_bytes == pytest.approx(
        training.predict().peak_bytes, rel=0.003
    )


def test_once_traced_all_ranks_and_micro_batches_are_arithmetic(monkeypatch: pytest.MonkeyPatch) -> None:
    training = Case(NARROW, device="cuda")
    for rank, batch in ((4, 1), (8, 1), (4, 2), (8, 4)):  # one example shares nothing, so it is apart
        training.predict(config={"rank": rank, "batch_size": batch})
    monkeypatch.setattr(trace, "_trace", None)
    peaks = {
        training.predict(config={"rank": r, "batch_size": b}) for r in range(1, 61) for b in range(1, 18)
    }
    assert len(peaks) == 60 * 17


def test_categories_add_up_and_the_operator_is_named() -> None:
    memory = Case(NARROW, device="cuda", supervised=60).predict()
    assert sum(memory.categories.values()) == memory.peak_bytes
    assert set(memory.categories) == set(Case(NARROW).predict(predict_peak).categories)
    assert all(value >= 0 for value in memory.categories.values())
    assert memory.moment in ("loss", "first layers' backward", "last layers' backward")
    assert memory.operator.startswith("aten.")
    closed = Case(NARROW, device="cuda", supervised=60).predict(predict_peak)
    for name in ("base_weights", "adapters", "gradients", "optimizer_state"):
        assert memory.categories[name] == pytest.approx(closed.categories[name], rel=0.01)


def test_more_of_anything_needs_no_less() -> None:
    def peak(**changes: Any) -> int:
        return int(Case(NARROW, **{"device": "cuda", "rank": 16} | changes).predict().peak_bytes)

    assert peak(execution=CHECKPOINTING) < peak()
    assert peak(execution=CHECKPOINTING) <= peak(execution=REENTRANT)
    assert peak(execution={"quantize": True}) < peak()
    assert peak(execution={"optimizer": "adamw-8bit"}) < peak()
    assert peak(targets=ATTENTION_QV) < peak()
    assert peak(dropout=0.1) > peak()
    assert peak(use_dora=True) > peak()
    assert peak(supervised=4) < peak()
    full = {"kind": "full", "batch_size": 8}
    one, four = (
        peak(**full, execution={"plugin": "zero2", "devices_per_trial": n, "micro_batch_size": 2})
        for n in (1, 4)
    )
    assert four < one


@pytest.mark.parametrize("how", [trace_peak, predict_peak])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seq_len": 0}, "sequence length 0"),
        ({"targets": ("c_attn",)}, "'c_attn' is not a linear module of a layer of this llama"),
        ({"targets": ()}, "train nothing"),
        (
            {"batch_size": 4, "execution": {"devices_per_trial": 7}},
            "7 devices cannot share a batch of 4 examples",
        ),
    ],
)
def test_impossible_things_are_one_clear_line(how: Any, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        Case(NARROW, **changes).predict(how) if changes.get("seq_len") != 0 else trace_or_predict_zero(how)
    assert "\n" not in str(caught.value)


def trace_or_predict_zero(how: Any) -> None:
    how(NARROW, TrialConfig(), ExecutionSettings(), target_modules=ALL_LINEAR, seq_len=0)


def test_tracing_leaves_the_process_as_it_was() -> None:
    from colossalai.accelerator import get_accelerator
    from transformers import AttentionInterface

    with process_group_of_one():
        group, accelerator = dist.group.WORLD, get_accelerator()
        attention, random = AttentionInterface._global_mapping["sdpa"], torch.get_rng_state()
        dropout = torch.nn.functional.dropout
        forget()
        Case(
            NARROW, device="cuda", dropout=0.1, execution={"plugin": "zero2", "devices_per_trial": 2}
        ).predict()
        assert dist.group.WORLD is group
        assert get_accelerator() is accelerator
        assert AttentionInterface._global_mapping["sdpa"] is attention
        assert torch.nn.functional.dropout is dropout
        assert torch.equal(torch.get_rng_state(), random)
        assert torch.get_default_dtype() == torch.float32


def test_a_kept_trace_needs_no_torch_and_a_broken_one_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORAFRONT_CACHE", str(tmp_path))
    forget()
    expected = Case(NARROW).predict()
    code = (
        "import sys; from trainables.trace import trace_peak; from trainables.settings import *\n"
        f"arch = Architecture.model_validate({NARROW.model_dump()!r})\n"
        f"memory = trace_peak(arch, TrialConfig(batch_size=2), ExecutionSettings(), target_modules={ALL_LINEAR!r},"
        " seq_len=64, supervised_fraction=40 / 64, device='cpu')\n"
        "print(memory.peak_bytes, 'torch' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.split() == [str(expected.peak_bytes), "False"]
    files = list(tmp_path.rglob("*.npz"))
    assert len(files) == 2
    for file in files:
        file.write_bytes(file.read_bytes()[:100])
    forget()
    assert Case(NARROW).predict() == expected
    forget()
