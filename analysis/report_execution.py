"""The report's table of how the front's members could be executed otherwise, as plain data."""

from dataclasses import dataclass

from analysis.execution import own_variant, passes_per_step
from analysis.front import front_members
from analysis.headline import recommended
from analysis.records import ExecutionVariant, TrialRecord
from analysis.results import Run
from analysis.text import loss_text, percent_text
from search.units import format_memory


@dataclass(frozen=True)
class ExecutionRow:
    """One way to execute a trial, as texts. ``micro_batch`` also says how many make up the batch: "2 × 4"."""

    micro_batch: str
    checkpointing: str
    plugin: str
    memory: str
    share: str
    speed: str
    is_own: bool


@dataclass(frozen=True)
class ExecutionGroup:
    """All ways to execute one member of the front, fastest first."""

    trial_id: str
    is_recommended: bool
    eval_loss: str
    rows: list[ExecutionRow]


def execution_groups(run: Run) -> list[ExecutionGroup]:
    """The front's members, least memory first, those without variants on record left out."""
    best = recommended(run.front)
    return [
        ExecutionGroup(
            trial_id=trial.trial_id,
            is_recommended=best is not None and trial.trial_id == best.trial_id,
            eval_loss=loss_text(trial.eval_loss),
            rows=[_row(run, trial, variant) for variant in trial.execution_variants or ()],
        )
        for trial in front_members(run.front)
        if own_variant(trial) is not None
    ]


def plugins_differ(run: Run) -> bool:
    """Whether the variants' plugins tell anything."""
    variants = [v for trial in front_members(run.front) for v in trial.execution_variants or ()]
    return len({variant.plugin for variant in variants}) > 1


def _row(run: Run, trial: TrialRecord, variant: ExecutionVariant) -> ExecutionRow:
    devices = run.section("execution").get("devices_per_trial")
    passes = passes_per_step(trial, variant, devices if isinstance(devices, int) and devices > 0 else 1)
    share = variant.predicted_memory_bytes / (trial.peak_memory_bytes or variant.predicted_memory_bytes)
    return ExecutionRow(
        micro_batch=f"{variant.micro_batch_size} × {passes}",
        checkpointing="yes" if variant.gradient_checkpointing else "no",
        plugin=variant.plugin,
        memory=("" if variant.is_own else "~") + format_memory(variant.predicted_memory_bytes),
        share=percent_text(share),
        speed=f"{variant.relative_speed:.2f} ×",
        is_own=variant.is_own,
    )
