"""The bytes that a ColossalAI plugin keeps on one device for the trained parameters.

Read off colossalai 0.5.0: `booster/plugin/torch_ddp_plugin.py`, `zero/low_level/low_level_optim.py` and
`amp/naive_amp/mixed_precision_optimizer.py` (the hybrid plugin's).
"""

from collections import Counter
from typing import NamedTuple

from trainables.settings import ExecutionSettings

FP32_BYTES = 4
FP64_BYTES = 8
DTYPE_BYTES = {"bf16": 2, "fp16": 2, "fp32": 4}
ADAM_BYTES = 2 * FP32_BYTES  # two fp32 moments per trained parameter
# bitsandbytes' AdamW8bit (`optim/optimizer.py`): smaller tensors keep fp32 moments; one fp32 scale per block.
MIN_8BIT_SIZE = 4096
BLOCK_8BIT = 256
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


def adam_bytes(size: int, execution: ExecutionSettings) -> int:
    """Bytes of Adam's two moments for a tensor of ``size`` elements.

    >>> adam_bytes(4096, ExecutionSettings()), adam_bytes(4096, ExecutionSettings(optimizer="adamw-8bit"))
    (32768, 8320)
    """
    if execution.optimizer == "adamw" or size < MIN_8BIT_SIZE:
        return ADAM_BYTES * size
    return 2 * (size + FP32_BYTES * -(-size // BLOCK_8BIT))


def trained_state(execution: ExecutionSettings, tensors: Counter[int]) -> TrainedState:
    """Bytes for the trained parameters, given as how many ``tensors`` there are of how many elements.

    DDP trains in fp32, and its buckets exist on a single device, too. ZeRO and Hybrid train in the
    execution's dtype with fp32 masters; ZeRO shares masters and moments among the devices (stage 2 the
    gradients as well). AdamW is fused, so it needs no memory of its own while it steps; but these plugins take the
    gradients' norm in fp64, one tensor at a time.
    """
    trained, largest = sum(size * count for size, count in tensors.items()), max(tensors)
    fp32 = FP32_BYTES * trained
    shards = execution.devices_per_trial if execution.plugin.startswith("zero") else 1
    adam = sum(count * adam_bytes(-(-size // shards), execution) for size, count in tensors.items())
    if execution.plugin == "ddp":
        return TrainedState(fp32, fp32, reduction_copy=fp32, optimizer=adam, step_temporary=0)
    weights = DTYPE_BYTES[execution.dtype] * trained
    if execution.plugin == "hybrid":
        return TrainedState(
            weights,
            gradients=weights,
            reduction_copy=weights,  # it wraps the model in DDP, on one device as well
            optimizer=adam + (0 if execution.dtype == "fp32" else fp32),
            # fp32 gradients take the place of the others
            step_temporary=fp32 - weights + FP64_BYTES * largest,
        )
    largest_shard = FP64_BYTES * -(-largest // execution.devices_per_trial)
    shard = -(-trained // execution.devices_per_trial)
    offload = execution.plugin == "zero2-offload"
    return TrainedState(
        weights,
        gradients=DTYPE_BYTES[execution.dtype] * (trained if execution.plugin == "zero1" else shard),
        reduction_copy=DTYPE_BYTES[execution.dtype] * min(trained, ZERO_BUCKET_ELEMENTS),
        optimizer=0 if offload else FP32_BYTES * shard + adam,
        # fp32 gradients beside the others
        step_temporary=largest_shard + (0 if offload else FP32_BYTES * shard),
    )
