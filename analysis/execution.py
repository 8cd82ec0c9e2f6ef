"""The ways to execute a completed trial that `search` wrote down, and choosing one that fits a memory size."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from analysis.records import ExecutionVariant, TrialRecord
from analysis.results import Run
from search.errors import InputError
from search.units import format_memory


@dataclass(frozen=True)
class Choice:
    """A trial, how to execute it (None: as it was, by a version that recorded nothing more), and why in a sentence."""

    trial: TrialRecord
    variant: ExecutionVariant | None
    reason: str


def own_variant(trial: TrialRecord) -> ExecutionVariant | None:
    """The execution that the trial was measured with; None where no variants are on record."""
    return next((variant for variant in trial.execution_variants or () if variant.is_own), None)


def passes_per_step(trial: TrialRecord, variant: ExecutionVariant, devices: int = 1) -> int:
    """Micro-batches of an optimizer step on one of the ``devices`` that share the trial's batch."""
    return -(-int(trial.config.get("batch_size", 1)) // devices // variant.micro_batch_size)


def variant_text(variant: ExecutionVariant) -> str:
    """A variant in a few words.

    >>> variant_text(ExecutionVariant(micro_batch_size=2, gradient_checkpointing=True, plugin="zero2-offload",
    ...     predicted_memory_bytes=1, relative_speed=0.5))
    'micro-batch 2, gradient checkpointing, zero2-offload'
    """
    checkpointing = "gradient checkpointing" if variant.gradient_checkpointing else "no checkpointing"
    return f"micro-batch {variant.micro_batch_size}, {checkpointing}, {variant.plugin}"


def own_choice(trial: TrialRecord) -> Choice:
    """The trial as it was executed."""
    own = own_variant(trial)
    return Choice(trial, own, f"executed as it was measured{f': {variant_text(own)}' if own else ''}")


def best_under(members: Sequence[TrialRecord], limit_bytes: int) -> Choice:
    """The member of best quality that fits into ``limit_bytes``: as it was executed, else with its fastest variant.

    Raises:
        InputError: none fits; the nearest is named.
    """
    fitting = [trial for trial in members if _least(trial) <= limit_bytes]
    if not fitting:
        raise InputError(_nearest_text(members, limit_bytes))
    trial = min(fitting, key=lambda trial: (_loss(trial), _least(trial)))
    if _own_memory(trial) <= limit_bytes:
        return own_choice(trial)
    variants = [v for v in trial.execution_variants or () if v.predicted_memory_bytes <= limit_bytes]
    variant = max(variants, key=lambda variant: (variant.relative_speed, -variant.predicted_memory_bytes))
    reason = _changed_text(trial, variant, limit_bytes)
    as_measured = [other for other in members if _own_memory(other) <= limit_bytes]
    if as_measured:
        other = min(as_measured, key=_loss)
        reason += f"; the best that fits as it was measured is {other.trial_id}, loss {_loss(other):.3f}"
    return Choice(trial, variant, reason)


def executed_as(run: Run, variant: ExecutionVariant | None) -> Run:
    """The run as if its configuration said to execute trials like ``variant``; unchanged for their own execution."""
    if variant is None or variant.is_own:
        return run
    changed = {name: getattr(variant, name) for name in _SETTINGS}
    return replace(run, config={**run.config, "execution": run.section("execution") | changed})


def execution_content(trial: TrialRecord, chosen: ExecutionVariant | None) -> dict[str, Any]:
    """What a preset says of execution: the chosen variant, and all there are; empty where none is on record."""
    chosen = chosen or own_variant(trial)
    if chosen is None:
        return {}
    variants = [variant.model_dump() for variant in trial.execution_variants or ()]
    return {"execution": chosen.model_dump(), "execution_variants": variants}


_SETTINGS = ("micro_batch_size", "gradient_checkpointing", "plugin")


def _changed_text(trial: TrialRecord, variant: ExecutionVariant, limit_bytes: int) -> str:
    own = own_variant(trial)
    measured = f"as it was measured{f' ({variant_text(own)})' if own else ''}"
    return (
        f"executed otherwise, since it needs {format_memory(_own_memory(trial))} {measured}: {variant_text(variant)}, "
        f"the fastest that fits {format_memory(limit_bytes)}: predicted {format_memory(variant.predicted_memory_bytes)}, "
        f"{variant.relative_speed:.2f} times the speed ({variant.speed_source})"
    )


def _nearest_text(members: Sequence[TrialRecord], limit_bytes: int) -> str:
    nearest = min(members, key=lambda trial: (_least(trial), _loss(trial)))
    least, limit = _least(nearest), format_memory(limit_bytes)
    if least == _own_memory(nearest):
        return (
            f"no trial needs at most {limit}; the nearest is {nearest.trial_id} "
            f"with {format_memory(least)}: --pick {nearest.trial_id}"
        )
    variant = min(nearest.execution_variants or (), key=lambda each: each.predicted_memory_bytes)
    return (
        f"no trial needs at most {limit} with any execution; the nearest is {nearest.trial_id} "
        f"with {format_memory(least)} ({variant_text(variant)}): --pick under:{-(-least // 2**20)}MiB"
    )


def _least(trial: TrialRecord) -> int:
    return min(_memories(trial))


def _memories(trial: TrialRecord) -> Iterator[int]:
    yield _own_memory(trial)
    for variant in trial.execution_variants or ():
        if not variant.is_own:
            yield variant.predicted_memory_bytes


def _own_memory(trial: TrialRecord) -> int:
    return trial.peak_memory_bytes or 0


def _loss(trial: TrialRecord) -> float:
    return float("inf") if trial.eval_loss is None else trial.eval_loss
