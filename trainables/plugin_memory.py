"""The bytes that a ColossalAI plugin keeps on one device for the trained parameters.

Read off colossalai 0.5.0: `booster/plugin/torch_ddp_plugin.py`, `zero/low_level/low_level_optim.py` and
`amp/naive_amp/mixed_precision_optimizer.py` (the hybrid plugin's).
"""

from typing import NamedTuple

from trainables.settings import ExecutionSettings

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


def trained_state(execution: ExecutionSettings, trained: int) -> TrainedState:
    """Bytes for ``trained`` parameters.

    DDP trains in fp32, and its buckets exist on a single device, too. ZeRO and Hybrid train in the
    execution's dtype with fp32 masters; ZeRO shares masters and moments among the devices (stage 2 the
    gradients as well). AdamW is fused, so it needs no memory of its own while it steps.
    """
    fp32 = FP32_BYTES * trained
    if execution.plugin == "ddp":
        return TrainedState(fp32, fp32, reduction_copy=fp32, optimizer=ADAM_BYTES * trained, step_temporary=0)
    weights = DTYPE_BYTES[execution.dtype] * trained
    if execution.plugin == "hybrid":
        return TrainedState(
            weights,
            gradients=weights,
            reduction_copy=weights if execution.devices_per_trial > 1 else 0,  # wrapped in DDP only then
            optimizer=ADAM_BYTES * trained + (0 if execution.dtype == "fp32" else fp32),
            step_temporary=fp32 - weights,  # fp32 gradients take the place of the others
        )
    shard = -(-trained // execution.devices_per_trial)
    offload = execution.plugin == "zero2-offload"
    return TrainedState(
        weights,
        gradients=DTYPE_BYTES[execution.dtype] * (trained if execution.plugin == "zero1" else shard),
        reduction_copy=DTYPE_BYTES[execution.dtype] * min(trained, ZERO_BUCKET_ELEMENTS),
        optimizer=0 if offload else (FP32_BYTES + ADAM_BYTES) * shard,
        step_temporary=0 if offload else FP32_BYTES * shard,  # fp32 gradients beside the others
    )
