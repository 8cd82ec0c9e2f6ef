"""Lorafront's own searcher and scheduler for a replay: the one place of the benchmark that knows how they are made."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from search.config import SweepConfig, resolve_config
from tests.benchmarks.replay.table import CurveTable
from trainables.settings import ExecutionSettings, TrialConfig, TrialSpec

MANY = 100_000  # trials: runs end by their horizon, not by a number


@dataclass(frozen=True)
class Setting:
    """What one run is made from."""

    table: CurveTable
    seed: int
    workers: int


Maker = Callable[[Setting], tuple[Any, Any]]  # of a searcher and a scheduler


def sweep_config(table: CurveTable, seed: int = 0, overrides: tuple[str, ...] = ()) -> SweepConfig:
    """The sweep that the table was recorded for: its size's defaults, its space and its rungs."""
    first, last, count = table.rungs[0], table.rungs[-1], len(table.rungs)
    flags: dict[str, Any] = {"trials": MANY, "seed": seed, "max_examples": last, "rung_count": count}
    if count > 1:
        flags["reduction_factor"] = max(2, round((last / first) ** (1 / (count - 1))))
    if table.space is not None:
        flags["space"] = dict(table.space)
    return resolve_config(table.size, flags=flags, overrides=overrides)


def ours(overrides: tuple[str, ...] = (), past: Sequence[Any] = ()) -> Maker:
    """Lorafront as it ships, or with ``--set`` overrides; but for the recommended start, which no rival has.

    The study is kept in memory, as those of the rivals are. ``past`` are finished Optuna trials that it holds from the
    beginning, as after an interruption.
    """

    def make(setting: Setting) -> tuple[Any, Any]:
        from search.pareto_asha import ParetoAsha, base_report_of
        from search.sampler import OptunaSearcher, open_study
        from search.scheduler import make_scheduler
        from search.slots import SlotSearcher

        rungs = setting.table.rungs

        def spec(number: int, config: TrialConfig) -> TrialSpec:
            return TrialSpec(
                trial_id=f"t{number:04d}",
                config=config,
                execution=ExecutionSettings(),
                target_modules=(config.targets,),
                rungs=rungs,
                base_model_path="recorded",
                seed=setting.seed,
            )

        config = sweep_config(setting.table, setting.seed, overrides)
        study = open_study(config, None)
        study.add_trials(past)
        searcher: Any = OptunaSearcher(study, config.search_space, spec, budget=config.trials)
        known = {f"base_{name}": value for name, value in (setting.table.base or {}).items()}
        base = base_report_of(known) if known else None
        scheduler = make_scheduler(
            config.scheduler, rungs, config.reduction_factor, workers=setting.workers, base=base
        )
        if isinstance(scheduler, ParetoAsha):
            searcher = SlotSearcher(searcher, scheduler, _nothing_to_revive)
        return searcher, scheduler

    return make


def _nothing_to_revive(trial_id: str) -> TrialSpec:
    raise AssertionError(f"{trial_id} is of an earlier launch, of which a replay has none")
