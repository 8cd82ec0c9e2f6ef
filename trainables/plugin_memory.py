"""The bytes that a ColossalAI plugin keeps on one device for the trained parameters.

Read off colossalai 0.5.0: `booster/plugin/torch_ddp_plugin.py`, `zero/low_level/low_level_optim.py` and
`booster/plugin/hybrid_parallel_plugin.py`; AdamW is `torch.optim.AdamW`.
"""

from typing import Literal, NamedTuple

from trainables.settings import ExecutionSettings

Device = Literal["cuda", "cpu"]

FP32_BYTES = 4
DTYPE_BYTES = {"bf16": 2, "fp16": 2, "fp32": 4}
ADAM_BYTES = 2 * FP32_BYTES  # two fp32 moments per trained parameter
ZERO_BUCKET_ELEMENTS = 12 * 2**20  # LowLevelZeroPlugin's reduce_bucket_size_in_m


class TrainedState(NamedTuple):
    """Bytes for the trained parameters.

    ``reduction_copy`` is the flat copy of the gradients that is reduced across devices, ``optimizer`` Adam's
    moments and fp32 master weights, ``step_temporary`` what lives only in the optimizer step.
    """

    weights: int
    gradients: int
    reduction_copy: int
    optimizer: int
    step_temporary: int


def trained_state(execution: ExecutionSettings, trained: int, largest: int, device: Device) -> TrainedState:
    """Bytes for ``trained`` parameters, the largest tensor of which has ``largest`` elements.

    DDP trains in fp32, and its buckets exist on a single device, too. ZeRO and Hybrid train in the
    execution's dtype with fp32 masters; ZeRO shares masters and moments among the devices (stage 2 the
    gradients as well).
    """
    if execution.plugin == "ddp":
        fp32 = FP32_BYTES * trained
        # AdamW's denominator: CUDA's foreach kernels make one of everything, a CPU two of one tensor at a
        # time.
        temporary = fp32 if device == "cuda" else 2 * FP32_BYTES * largest
        return TrainedState(fp32, fp32, fp32, ADAM_BYTES * trained, temporary)
    return _with_masters(execution, trained)


def _with_masters(execution: ExecutionSettings, trained: int) -> TrainedState:
    if execution.plugin == "hybrid":
        return _hybrid(execution, trained)
    weights = DTYPE_BYTES[execution.dtype] * trained
    shard = -(-trained // execution.devices_per_trial)
    offload = execution.plugin == "zero2-offload"
    return TrainedState(
        weights,
        gradients=weights if execution.plugin == "zero1" else DTYPE_BYTES[execution.dtype] * shard,
        reduction_copy=DTYPE_BYTES[execution.dtype] * min(trained, ZERO_BUCKET_ELEMENTS),
        optimizer=0 if offload else (FP32_BYTES + ADAM_BYTES) * shard,
        step_temporary=0 if offload else 2 * FP32_BYTES * shard,  # fp32 gradients, AdamW's denominators
    )


def _hybrid(execution: ExecutionSettings, trained: int) -> TrainedState:
    weights, fp32 = DTYPE_BYTES[execution.dtype] * trained, FP32_BYTES * trained
    masters = 0 if execution.dtype == "fp32" else fp32
    return TrainedState(
        weights,
        gradients=weights,
        reduction_copy=weights if execution.devices_per_trial > 1 else 0,  # wrapped in DDP only then
        optimizer=masters + ADAM_BYTES * trained,
        # AdamW's denominators, and fp32 gradients that take the place of the others.
        step_temporary=fp32 + (fp32 - weights),
    )
