import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
from torch.nn.parallel import DistributedDataParallel

from search.errors import InputError
from search.units import GIB
from tests.trainables.counted_step import (
    ALL_LINEAR,
    ATTENTION_QV,
    MLP,
    TINY,
    CountedStep,
    architecture,
    process_group_of_one,
)
from trainables.memory import probe_cpu_peak
from trainables.memory_model import PredictedMemory, count_parameters, predict_peak, trainable_parameters
from trainables.settings import Architecture, ExecutionSettings, TrialConfig

LLAMA3_8B = Architecture(
    hidden_size=4096, intermediate_size=14336, num_layers=32, num_heads=32, num_kv_heads=8, head_dim=128,
    vocab_size=128256, tie_word_embeddings=False,
)  # fmt: skip
UNTIED = TINY | {"tie_word_embeddings": False, "num_key_value_heads": 4, "intermediate_size": 256}
SMOLLM2_135M = {
    "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
    "num_key_value_heads": 3, "vocab_size": 49152, "tie_word_embeddings": True,
}  # fmt: skip
CHECKPOINTING = {"use_reentrant": False}


@pytest.fixture(scope="module", autouse=True)
def single_process_group() -> Iterator[None]:
    with process_group_of_one():
        yield


def predict_8b(
    targets: tuple[str, ...] = ALL_LINEAR, batch: int = 4, fraction: float = 1.0, **execution: Any
) -> int:
    return predict_peak(
        LLAMA3_8B,
        TrialConfig(rank=16, batch_size=batch),
        ExecutionSettings(**execution),
        target_modules=targets,
        seq_len=2048,
        supervised_fraction=fraction,
    ).peak_bytes


def relative_error(shape: dict[str, Any], **options: Any) -> float:
    """Predicted over counted peak of the second step on a CPU, minus one."""
    step = CountedStep(shape, wrap=DistributedDataParallel, **options)
    step()
    counted = probe_cpu_peak(step, step.held()).peak_bytes
    micro_batch = options.get("batch", 4)
    predicted = predict_peak(
        architecture(shape),
        TrialConfig(
            rank=options.get("rank", 8),
            batch_size=micro_batch * options.get("accumulation", 1),
            dropout=options.get("dropout", 0.0),
            use_dora=options.get("dora", False),
        ),
        ExecutionSettings(micro_batch_size=micro_batch, gradient_checkpointing="checkpointing" in options),
        target_modules=options.get("targets", ALL_LINEAR),
        seq_len=options.get("seq_len", 64),
        kind=options.get("kind", "lora"),
        supervised_fraction=options.get("supervised_fraction", 1.0),
        device="cpu",
    )
    return predicted.peak_bytes / counted - 1


@pytest.mark.parametrize(
    "checkpointing", [{}, {"checkpointing": CHECKPOINTING}], ids=["plain", "checkpointing"]
)
@pytest.mark.parametrize(
    "options",
    [
        {"targets": ATTENTION_QV},
        {"targets": ATTENTION_QV, "supervised_fraction": 0.1, "rank": 64},
        {"targets": MLP, "batch": 2, "seq_len": 128, "supervised_fraction": 0.2},
        {"targets": ALL_LINEAR},
        {"targets": ALL_LINEAR, "supervised_fraction": 0.1, "rank": 64},
        {"targets": ("o_proj",), "supervised_fraction": 0.3},
        {"targets": ALL_LINEAR, "accumulation": 2, "supervised_fraction": 0.2},
        {"shape": UNTIED, "targets": ALL_LINEAR, "rank": 2, "batch": 3, "seq_len": 50},
    ],
    ids=str,
)
def test_prediction_is_within_0_3_percent_of_the_counted_peak(
    options: dict[str, Any], checkpointing: dict[str, Any]
) -> None:
    # Measured: at most 0.24 %. What is missing are rotary tables and scalars, which real models dwarf.
    assert abs(relative_error(**{"shape": TINY} | options | checkpointing)) < 0.003


@pytest.mark.parametrize(
    "checkpointing", [{}, {"checkpointing": CHECKPOINTING}], ids=["plain", "checkpointing"]
)
@pytest.mark.parametrize(
    "options",
    [
        {"dora": True, "supervised_fraction": 0.1},
        {"dora": True, "targets": ATTENTION_QV},
        {"dropout": 0.1, "supervised_fraction": 0.1},
        {"dropout": 0.1, "targets": MLP},
        {"dora": True, "targets": MLP, "rank": 64},
        {"dora": True, "targets": ("o_proj",), "rank": 2, "supervised_fraction": 0.1},
        {"dora": True, "dropout": 0.1, "supervised_fraction": 0.1},
        {"dora": True, "shape": UNTIED, "rank": 64, "supervised_fraction": 0.2},
        {"kind": "full", "supervised_fraction": 0.1, "seq_len": 128},
        {"kind": "full", "batch": 1, "seq_len": 16},
        {"kind": "full", "accumulation": 2, "batch": 2},
        {"kind": "full", "shape": UNTIED, "supervised_fraction": 0.3},
    ],
    ids=str,
)
def test_prediction_is_close_for_dora_dropout_and_full(
    options: dict[str, Any], checkpointing: dict[str, Any]
) -> None:
    # Measured: at most 0.15 %, in full fine-tuning 0.83 %.
    tolerance = 0.01 if options.get("kind") == "full" else 0.003
    assert abs(relative_error(**{"shape": TINY} | options | checkpointing)) < tolerance


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layers", "options"), [(30, {"rank": 16}), (4, {"kind": "full"})], ids=["lora", "full fine-tuning"]
)
def test_prediction_is_exact_on_the_shape_of_the_default_model(layers: int, options: dict[str, Any]) -> None:
    # By hand also with all 30 layers in full fine-tuning (3.05 GB): 0.00 %.
    shape = SMOLLM2_135M | {"num_hidden_layers": layers}
    assert abs(relative_error(shape, batch=2, supervised_fraction=0.4, **options)) < 0.001


def test_agrees_with_the_traced_figures_of_llama3_8b() -> None:
    # Traces of the real architecture under FakeTensorMode (shared design notes, "Logits"): 28.9 GiB with all
    # positions supervised and logits dropped before backward, 23.0 GiB with half of them.
    assert predict_8b(ATTENTION_QV, gradient_checkpointing=True) / GIB == pytest.approx(28.9, rel=0.005)
    half = predict_8b(ATTENTION_QV, fraction=0.5, gradient_checkpointing=True)
    assert half / GIB == pytest.approx(23.0, rel=0.005)


def test_counts_parameters_of_known_models() -> None:
    assert count_parameters(LLAMA3_8B) == 8_030_261_248
    assert count_parameters(architecture(SMOLLM2_135M)) == 134_515_008


@pytest.mark.parametrize("dora", [False, True])
def test_trainable_parameters_are_those_of_peft(dora: bool) -> None:
    step = CountedStep(targets=("k_proj", "o_proj", "down_proj"), rank=3, dora=dora)
    expected = sum(parameter.numel() for parameter in step.trained)
    assert trainable_parameters(architecture(), ("k_proj", "o_proj", "down_proj"), 3, dora) == expected


def test_categories_add_up_and_moment_is_named() -> None:
    memory = predict_peak(
        LLAMA3_8B, TrialConfig(), ExecutionSettings(), target_modules=ALL_LINEAR, seq_len=128
    )
    assert isinstance(memory, PredictedMemory)
    assert sum(memory.categories.values()) == memory.peak_bytes
    assert memory.moment in ("loss", "last layer's backward", "final norm's backward")


def test_more_of_anything_needs_no_less() -> None:
    base = predict_8b()
    assert predict_8b(batch=8) > base
    assert predict_8b(gradient_checkpointing=True) < base
    assert predict_8b(quantize=True) < base
    assert predict_8b(targets=ATTENTION_QV) < base
    assert predict_8b(micro_batch_size=1) < base
    assert predict_8b(dtype="fp32") > base


def test_zero_keeps_adapters_in_bf16_and_shards_their_state() -> None:
    assert predict_8b(plugin="zero1") < predict_8b(plugin="ddp")
    one, eight = (
        predict_8b(batch=8, plugin="zero2", devices_per_trial=n, micro_batch_size=1) for n in (1, 8)
    )
    assert eight < one
    assert predict_8b(batch=8, plugin="zero2-offload", micro_batch_size=1) < one
    full = [
        predict_peak(
            LLAMA3_8B, TrialConfig(batch_size=8), ExecutionSettings(plugin=plugin, devices_per_trial=8),
            target_modules=(), seq_len=128, kind="full",
        ).peak_bytes
        for plugin in ("ddp", "hybrid", "zero1", "zero2", "zero2-offload")
    ]  # fmt: skip
    assert full[1:] == sorted(full[1:], reverse=True)
    assert full[0] > full[2]  # the hybrid plugin shards nothing, and takes the gradients' norm in fp64
    assert min(full) > 2 * 8_030_261_248


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seq_len": 0}, "sequence length 0"),
        ({"seq_len": 1}, "sequence length 1"),
        ({"supervised_fraction": 0.0}, "supervised fraction 0.0"),
        ({"supervised_fraction": 1.5}, "supervised fraction 1.5"),
        ({"target_modules": ("qkv_proj",)}, "'qkv_proj' is not a linear module"),
        ({"target_modules": ()}, "train nothing"),
    ],
)
def test_impossible_things_are_input_errors(changes: dict[str, Any], message: str) -> None:
    arguments = {"target_modules": ALL_LINEAR, "seq_len": 128} | changes
    with pytest.raises(InputError, match=message):
        predict_peak(LLAMA3_8B, TrialConfig(), ExecutionSettings(), **arguments)


def test_takes_well_under_a_millisecond_and_no_torch() -> None:
    config, execution = TrialConfig(), ExecutionSettings()
    start = time.perf_counter()
    for _ in range(100):
        predict_peak(LLAMA3_8B, config, execution, target_modules=ALL_LINEAR, seq_len=2048)
    assert (time.perf_counter() - start) / 100 < 1e-3
    code = "import sys, trainables.memory_model; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
