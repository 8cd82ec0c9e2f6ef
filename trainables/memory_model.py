"""Predicting the peak memory of training in closed form: microseconds a call, no torch, no GPU.

`trainables.layer_memory` knows a layer, `trainables.plugin_memory` what a plugin keeps, and
`trainables.step_memory` the moments of a step. The tests compare the result with counted bytes.
"""

from typing import Literal

from search.errors import InputError
from trainables.layer_memory import Device, LayerPass
from trainables.parameter_counts import (
    adapter_tensors,
    check_targets,
    count_parameters,
    linear_shapes,
    linear_weights,
    model_tensors,
    trainable_parameters,
)
from trainables.plugin_memory import DTYPE_BYTES, FP32_BYTES, trained_state
from trainables.settings import Architecture, ExecutionSettings, TrialConfig
from trainables.step_memory import PredictedMemory, TrainingStep

__all__ = ["Device", "Kind", "PredictedMemory", "count_parameters", "predict_peak", "trainable_parameters"]

Kind = Literal["lora", "full"]

# 4-bit NormalFloat with double quantisation: 4 + 8/64 + 32/(64 * 256) bits per weight (QLoRA, arXiv
# 2305.14314, §3). bitsandbytes 0.50 keeps for each module its own tables of 16 and 256 codes, and an offset.
NF4_BITS = 4 + 8 / 64 + 32 / (64 * 256)
NF4_TABLE_BYTES = FP32_BYTES * (16 + 256 + 1)


def predict_peak(
    arch: Architecture,
    config: TrialConfig,
    execution: ExecutionSettings,
    *,
    target_modules: tuple[str, ...],
    seq_len: int,
    kind: Kind = "lora",
    supervised_fraction: float = 1.0,
    supervised_positions: int | None = None,
    device: Device = "cuda",
) -> PredictedMemory:
    """The peak memory of one device in a training step on micro-batches of full length.

    Assumes what the training loop does: fused AdamW (or bitsandbytes' 8-bit one); the head only at supervised
    positions, a ``supervised_fraction`` of all (or exactly ``supervised_positions`` of the micro-batch);
    scaled-dot-product attention without a mask; no key-value cache; Adam's states exist (the second step or later).
    With the ``ddp`` plugin adapters are fp32, and full fine-tuning trains fp32 weights under autocast; the other plugins
    train weights of ``execution.dtype`` with fp32 master copies. Checkpoints count as not re-entrant (re-entrant ones
    need up to half a percent more; `trainables.trace` knows them). Not in the number, nor in a trace: the allocator's
    rounding (to 512 bytes) and fragmentation, CUDA context, NCCL buffers, cuBLAS workspaces, and what the attention
    kernel allocates inside its backward pass; see `search.device_memory`.

    Raises:
        InputError: as `check_possible`.
    """
    check_possible(arch, config, execution, target_modules, seq_len, kind, supervised_fraction)
    full, per_device = kind == "full", per_device_batch(config, execution)
    examples = execution.micro_batch(per_device)
    if full:
        tensors = model_tensors(arch)
    else:
        tensors = adapter_tensors(arch, target_modules, config.rank, config.use_dora)
    layer_pass = _layer_pass(arch, config, execution, target_modules, (examples, seq_len), full, device)
    if supervised_positions is None:
        supervised_positions = examples * head_positions(seq_len, supervised_fraction)
    step = TrainingStep(
        layer_pass,
        layer_pass.memory(),
        trained_state(execution, tensors),
        frozen_weights=0 if full else _frozen_weights(arch, execution),
        head_positions=supervised_positions,
        accumulating=examples < per_device,
    )
    return max(step.moments(), key=lambda memory: memory.peak_bytes)


def head_positions(seq_len: int, supervised_fraction: float) -> int:
    """Positions of a sequence whose next token is supervised; the last position has no next one."""
    return max(1, min(seq_len - 1, round(seq_len * supervised_fraction)))


def per_device_batch(config: TrialConfig, execution: ExecutionSettings) -> int:
    """Examples that one of the trial's devices sees per optimizer step."""
    return config.batch_size // execution.devices_per_trial


def check_possible(
    arch: Architecture,
    config: TrialConfig,
    execution: ExecutionSettings,
    target_modules: tuple[str, ...],
    seq_len: int,
    kind: Kind,
    supervised_fraction: float,
) -> None:
    """Refuse what no training could be. (A rank above a module's width can be trained, however pointless.)

    Raises:
        InputError: ``seq_len``, ``supervised_fraction``, a target module or the number of devices.
    """
    if seq_len < 2:
        raise InputError(
            f"sequence length {seq_len} is too short: it takes 2 tokens, one to predict the other"
        )
    if not 0 < supervised_fraction <= 1:
        raise InputError(f"supervised fraction {supervised_fraction} is not above 0 and at most 1")
    if config.batch_size % execution.devices_per_trial:
        raise InputError(
            f"{execution.devices_per_trial} devices cannot share a batch of {config.batch_size} examples equally: "
            f"give a batch size that is a multiple of {execution.devices_per_trial}, or another number of devices"
        )
    if kind == "lora":
        if not target_modules:
            raise InputError("no target module: LoRA would train nothing")
        check_targets(arch, target_modules)


def _layer_pass(
    arch: Architecture,
    config: TrialConfig,
    execution: ExecutionSettings,
    target_modules: tuple[str, ...],
    shape: tuple[int, int],
    full: bool,
    device: Device,
) -> LayerPass:
    compute_bytes = DTYPE_BYTES[execution.dtype]
    return LayerPass(
        arch=arch,
        tokens=shape[0] * shape[1],
        targets=tuple(linear_shapes(arch)) if full else target_modules,
        rank=config.rank,
        full=full,
        autocast=full and execution.plugin == "ddp" and execution.dtype != "fp32",
        compute_bytes=compute_bytes,
        adapter_bytes=FP32_BYTES if execution.plugin == "ddp" else compute_bytes,
        dora=config.use_dora and not full,
        dropout=config.dropout > 0 and not full,
        checkpointing=execution.gradient_checkpointing,
        quantized=None if full else execution.base_precision,
        device=device,
        is_single=shape[0] == 1,
    )


def _frozen_weights(arch: Architecture, execution: ExecutionSettings) -> int:
    """The base model: linear modules in 4 or 8 bits when quantised; embeddings, head and norms in the dtype."""
    parameters, dtype_bytes = count_parameters(arch), DTYPE_BYTES[execution.dtype]
    if execution.base_precision is None:
        return parameters * dtype_bytes
    linear, shapes = linear_weights(arch), linear_shapes(arch).values()
    kept = (parameters - linear) * dtype_bytes
    if execution.base_precision == "int8":  # a scale per row
        return kept + linear + FP32_BYTES * arch.num_layers * sum(shape.outputs for shape in shapes)
    return kept + round(linear * NF4_BITS / 8) + NF4_TABLE_BYTES * arch.num_layers * len(shapes)
