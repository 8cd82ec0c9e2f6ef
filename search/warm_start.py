"""Starting from what an earlier sweep, or a preset, has found."""

import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from analysis.export import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from analysis.front import front_members
from analysis.inside import is_inside
from analysis.records import Base, RunPaths, TrialRecord
from analysis.results import Run, load_run
from search.config import resolve_config
from search.errors import InputError
from search.foreign_run import other_software
from search.history import trial_config
from search.plan import BASELINE_ID, SweepPlan
from search.space import Choices, Dimension, SearchSpace, Value
from search.units import format_memory
from search.yaml_io import read_yaml_mapping
from trainables.settings import ExecutionSettings

# What changes how long a trial takes, but not what it finds.
_SPEED_ONLY = {"threads", "eval_batch_size"}


@dataclass(frozen=True)
class WarmStart:
    """What is taken from an earlier run or a preset.

    Attributes:
        points: of the new sweep's space, to be tried first: the earlier front, but for what is adopted.
        adopted: trials that count as run: those of the same size, data and settings that lie in the space, under ids of
            their own (``w0001``), and full fine-tuning. A ``checkpoint`` is still that of the earlier run, absolute.
        base: the untouched model, if trials are adopted.
        software: what the adopted trials were measured with and is not installed here, None if nothing.
    """

    points: Sequence[dict[str, Value]] = ()
    adopted: Sequence[TrialRecord] = ()
    base: Base | None = None
    software: str | None = None

    def describe(self) -> str:
        """One line for people."""
        taken = sum(trial.kind == "lora" for trial in self.adopted)
        measured = f" as measured with {self.software}" if taken and self.software else ""
        return f"warm start: {taken} trials taken over{measured}, {len(self.points)} more configs tried first"


def read_warm_start(plan: SweepPlan) -> WarmStart:
    """What the configuration's ``warm_start`` offers to this sweep; writes nothing.

    Raises:
        InputError: the path is neither a run folder nor a preset, or one of its files is malformed.
    """
    path = Path(plan.config.warm_start or "")
    preset = path if path.is_file() else path / "preset.yaml"
    if preset.is_file():
        return WarmStart(points=[_preset_point(preset, plan.config.search_space)])
    if not path.is_dir() or not RunPaths(path).trials_jsonl.is_file():
        raise InputError(f"--warm-start {path}: is neither a run folder nor a preset")
    return _from_run(load_run(path), plan)


def _preset_point(path: Path, space: SearchSpace) -> dict[str, Value]:
    sweep = read_yaml_mapping(path).get("sweep")
    if not isinstance(sweep, dict) or not sweep.get("recommended"):
        raise InputError(f"--warm-start {path}: is not a preset: it has no sweep.recommended")
    return nearest_point(resolve_config(None, config_file=path).recommended, space)


def _from_run(run: Run, plan: SweepPlan) -> WarmStart:
    space = plan.config.search_space
    is_same = _is_same(run, plan)
    adopted = [
        _adopt(trial, run, plan)
        for trial in run.front.trials
        if is_same and _has_ended(trial) and exact_point(trial.config, space) is not None
    ]
    taken = {str(trial.adopted_from).rpartition("/")[2] for trial in adopted}
    points = [
        nearest_point(trial.config, space)
        for trial in front_members(run.front)
        if trial.trial_id not in taken
    ]
    numbered = [trial.model_copy(update={"trial_id": f"w{n:04d}"}) for n, trial in enumerate(adopted, 1)]
    base = run.base if numbered and _serves(run.base, plan) else None
    adopted = [*(_baseline(run, plan) if is_same else ()), *numbered]
    return WarmStart(points, adopted, base, other_software(run.sweep))


def _is_same(run: Run, plan: SweepPlan) -> bool:
    """Whether trials of an earlier run would come out the same here: model, data, resource, execution, kind of device."""
    config = plan.config
    facts = run.sweep.get("data") or {}
    rungs = ("max_examples", "reduction_factor", "rung_count")
    return (
        run.front.size == config.size
        and run.config.get("base_model") == config.base_model
        and facts.get("fingerprint") == plan.data.fingerprint
        and all(run.config.get(name) == getattr(config, name) for name in rungs)
        and _earlier_execution(run) == config.execution.model_dump(exclude=_SPEED_ONLY)
        and ("CPU" in str(run.sweep.get("device"))) == (plan.machine.device == "cpu")
    )


def _earlier_execution(run: Run) -> dict[str, Any] | None:
    try:
        return ExecutionSettings.model_validate(run.section("execution")).model_dump(exclude=_SPEED_ONLY)
    except ValidationError:  # of another version
        return None


def _has_ended(trial: TrialRecord) -> bool:
    return trial.status in ("completed", "stopped") and bool(trial.rungs)


def _adopt(trial: TrialRecord, run: Run, plan: SweepPlan) -> TrialRecord:
    """The record of an earlier trial as this sweep's; infeasible where this sweep's memory budget says so."""
    checkpoint = run.checkpoint_dir(trial) if trial.on_front else None
    update: dict[str, Any] = {
        "on_front": False,
        "mlflow_run_id": None,
        "confirmation": None,
        "test_loss": None,
        "adopted_from": f"{run.front.name}/{trial.trial_id}",
        "checkpoint": str(checkpoint) if checkpoint else None,
    }
    budget, memory = plan.config.memory_budget, trial.peak_memory_bytes or 0
    if budget is not None and memory > budget:
        reason = f"needed {format_memory(memory)}, over the budget of {format_memory(budget)}"
        update |= {"status": "infeasible", "error": reason}
    return trial.model_copy(update=update)


def _serves(record: Base | TrialRecord | None, plan: SweepPlan) -> bool:
    """Whether a record has what this sweep will ask of it."""
    return record is not None and (plan.config.confirm == 0 or record.test_example_losses is not None)


def _baseline(run: Run, plan: SweepPlan) -> list[TrialRecord]:
    full = run.full_trial
    config = plan.config.baseline_config()
    wanted = plan.config.baseline.enabled and _serves(full, plan)
    if full is None or not wanted or full.status != "completed" or trial_config(full) != config:
        return []
    update = {"mlflow_run_id": None, "adopted_from": f"{run.front.name}/{BASELINE_ID}", "checkpoint": None}
    return [full.model_copy(update=update)]


def copy_adapter(trial: TrialRecord, paths: RunPaths) -> TrialRecord:
    """The trial with its adapter copied into this run folder, so that the earlier one is not needed any more."""
    if trial.checkpoint is None:
        return trial
    source, target = Path(trial.checkpoint) / "adapter", paths.tune / "adopted" / trial.trial_id
    files = [source / name for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS)]
    # Nothing else, and nothing that a link brings in from elsewhere: the earlier run may be somebody else's.
    if not all(file.is_file() and is_inside(file, source) for file in files):
        return trial.model_copy(update={"checkpoint": None})
    (target / "adapter").mkdir(parents=True, exist_ok=True)
    for file in files:
        shutil.copyfile(file, target / "adapter" / file.name)
    return trial.model_copy(update={"checkpoint": str(target.relative_to(paths.root))})


def exact_point(config: Mapping[str, Any], space: SearchSpace) -> dict[str, Value] | None:
    """The point of the space at which a config lies, searched dimensions only; None if it lies outside."""
    point = nearest_point(config, space)
    if any(dimension.size() > 1 and name not in point for name, dimension in space.dimensions.items()):
        return None
    there = space.config_at(point).model_dump(mode="json")
    return point if all(_is_close(config.get(name), value) for name, value in there.items()) else None


def nearest_point(config: Mapping[str, Any], space: SearchSpace) -> dict[str, Value]:
    """The point of the space that is nearest to a config, dimension by dimension.

    Only searched dimensions are given, and not those with names to choose from that do not have the config's.
    """
    point = {}
    for name, dimension in space.dimensions.items():
        value = _value(config, name)
        nearest = None if value is None or dimension.size() == 1 else _nearest(value, dimension)
        if nearest is not None:
            point[name] = nearest
    return point


def _value(config: Mapping[str, Any], name: str) -> Any:
    """A config's value in a dimension; alpha and alpha / rank follow from each other."""
    if name in config or "rank" not in config:
        return config.get(name)
    if name == "alpha_ratio" and "alpha" in config:
        return config["alpha"] / config["rank"]
    if name == "alpha" and "alpha_ratio" in config:
        return config["alpha_ratio"] * config["rank"]
    return None


def _nearest(value: Any, dimension: Dimension) -> Value | None:
    if dimension.contains(value):
        return value  # type: ignore[no-any-return]
    if isinstance(value, bool | str):
        return None
    if isinstance(dimension, Choices):
        numbers = [
            each for each in dimension.values if isinstance(each, int | float) and not isinstance(each, bool)
        ]
        return min(numbers, key=lambda each: _distance(each, value), default=None)
    clamped = min(max(value, dimension.low), dimension.high)
    if dimension.step or dimension.integer:
        step = dimension.step or 1
        clamped = min(dimension.low + round((clamped - dimension.low) / step) * step, dimension.high)
    return int(clamped) if dimension.integer else float(clamped)


def _distance(one: float, other: float) -> float:
    """Settings are compared by their ratio, where both have one."""
    return abs(math.log(one / other)) if one > 0 and other > 0 else abs(one - other)


def _is_close(one: Any, other: Any) -> bool:
    if isinstance(one, bool | str) or isinstance(other, bool | str) or one is None:
        return bool(one == other)
    return math.isclose(one, other, rel_tol=1e-9)
