"""How a finished trial's training could be executed otherwise: in how much memory, and how fast.

Only what leaves the training as it is: micro-batch (at the same effective batch), gradient checkpointing, and whether
ZeRO keeps the optimizer's state on the host. Losses then agree up to rounding; with dropout, other masks are drawn.
"""

import math
from collections.abc import Iterable, Iterator

from analysis.records import ExecutionVariant, TrialRecord
from search.history import trial_config
from search.plan import SweepPlan
from search.step_speed import StepSpeed
from trainables.memory_model import per_device_batch
from trainables.settings import ExecutionSettings, TrialConfig, TrialSpec

# A slower way has to need this much less: smaller differences are within the prediction's error.
RESOLUTION = 0.01
# From ddp it would turn fp32 adapters into bf16 ones with fp32 masters: another training.
_OFFLOADING = {"zero1": "zero2-offload", "zero2": "zero2-offload", "zero2-offload": "zero2"}


def with_variants(plan: SweepPlan, trial: TrialRecord) -> TrialRecord:
    """The record of a completed trial with its ``execution_variants``; others, and those that have them, unchanged."""
    measured = trial.peak_memory_bytes and trial.tokens_per_second
    if trial.kind != "lora" or not measured or trial.execution_variants is not None:
        return trial
    return trial.model_copy(update={"execution_variants": execution_variants(plan, trial)})


def execution_variants(plan: SweepPlan, trial: TrialRecord) -> list[ExecutionVariant]:
    """The trial's own execution and those worth having beside it, fastest first.

    Memory is predicted in closed form, and scaled by what was measured over what is predicted of the own execution.
    """
    assert trial.peak_memory_bytes is not None, "a completed trial has its memory"
    spec = plan.spec(trial.trial_id, trial_config(trial))
    correction = trial.peak_memory_bytes / plan.predict_memory(spec)
    speed = step_speed(plan, spec, trial)
    variants = []
    for execution in executions(spec.config, spec.execution):
        predicted = plan.predict_memory(spec.model_copy(update={"execution": execution}))
        variants.append(
            ExecutionVariant(
                micro_batch_size=_micro_batch(spec.config, execution),
                gradient_checkpointing=execution.gradient_checkpointing,
                plugin=execution.plugin,
                predicted_memory_bytes=round(correction * predicted),
                relative_speed=round(speed.relative(execution), 4),
                is_own=execution == spec.execution,
            )
        )
    return worth_having(variants)


def executions(config: TrialConfig, own: ExecutionSettings) -> list[ExecutionSettings]:
    """The own execution, then every other that trains the same."""
    others = [
        own.model_copy(
            update={
                "micro_batch_size": micro_batch,
                "gradient_checkpointing": checkpointing,
                "plugin": plugin,
            }
        )
        for plugin in _plugins(own)
        for checkpointing in (False, True)
        for micro_batch in sorted({*halvings(per_device_batch(config, own)), _micro_batch(config, own)})
    ]
    return [own, *(other for other in others if not _is_same(config, other, own))]


def halvings(batch_size: int) -> Iterator[int]:
    """Micro-batches that need half as many passes, or the fewest more: the batch halved until it is one example.

    >>> list(halvings(8)), list(halvings(6))
    ([8, 4, 2, 1], [6, 3, 2, 1])
    """
    while batch_size > 1:
        yield batch_size
        batch_size = -(-batch_size // 2)
    yield 1


def worth_having(variants: Iterable[ExecutionVariant]) -> list[ExecutionVariant]:
    """The own one, and each that needs less memory than all that are as fast; fastest first."""
    kept, least = [], math.inf
    for variant in sorted(variants, key=lambda each: (-each.relative_speed, each.predicted_memory_bytes)):
        if variant.is_own or variant.predicted_memory_bytes < (1 - RESOLUTION) * least:
            kept.append(variant)
            least = min(least, variant.predicted_memory_bytes)
    return kept


def step_speed(plan: SweepPlan, spec: TrialSpec, trial: TrialRecord) -> StepSpeed:
    """What the speed of the trial's variants follows from."""
    assert trial.tokens_per_second is not None, "a completed trial has its speed"
    tokens = plan.train_tokens / len(plan.data.train)
    return StepSpeed(
        arch=plan.architecture,
        target_modules=spec.target_modules,
        config=spec.config,
        own=spec.execution,
        device=plan.machine.device,
        tokens_per_example=tokens,
        supervised_fraction=plan.supervised_tokens / plan.train_tokens,
        own_seconds=spec.config.batch_size * tokens / trial.tokens_per_second,
    )


def _plugins(own: ExecutionSettings) -> list[str]:
    """Adam in 8 bits steps on the GPU only, so it cannot be offloaded."""
    other = _OFFLOADING.get(own.plugin) if own.optimizer == "adamw" else None
    return [own.plugin] if other is None else [own.plugin, other]


def _micro_batch(config: TrialConfig, execution: ExecutionSettings) -> int:
    return execution.micro_batch(per_device_batch(config, execution))


def _is_same(config: TrialConfig, one: ExecutionSettings, other: ExecutionSettings) -> bool:
    """Whether two executions differ at most in how they write the micro-batch."""
    return (
        one.plugin == other.plugin
        and one.gradient_checkpointing == other.gradient_checkpointing
        and _micro_batch(config, one) == _micro_batch(config, other)
    )
