"""Syne Tune's MOASHA with random search (arXiv 2106.12639) behind Ray's two interfaces.

Syne Tune is no dependency of lorafront. ``pip install syne-tune`` into the environment, or ``pip install --no-deps
--target FOLDER syne-tune`` and ``PYTHONPATH=FOLDER``: version 0.16 needs for MOASHA nothing that lorafront lacks.
"""

from datetime import UTC, datetime
from typing import Any

import numpy as np
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from search.space import Choices, Range, SearchSpace
from tests.benchmarks.replay.ours import Maker, Setting, sweep_config


def why_missing() -> str | None:
    """Why MOASHA cannot run here; None when it can."""
    try:
        from syne_tune.optimizer.schedulers.multiobjective.moasha import MOASHA  # noqa: F401
    except ImportError as error:
        return f"Syne Tune is not importable ({error})"
    return None


def config_space(space: SearchSpace) -> dict[str, Any]:
    """The space as Syne Tune domains; a single value stands for itself."""
    from syne_tune import config_space as domains

    found: dict[str, Any] = {}
    for name, dimension in space.dimensions.items():
        if isinstance(dimension, Choices):
            many = dimension.size() > 1
            found[name] = domains.choice(list(dimension.values)) if many else dimension.values[0]
        elif isinstance(dimension, Range) and dimension.integer:
            make = domains.lograndint if dimension.log else domains.randint
            found[name] = make(int(dimension.low), int(dimension.high))
        elif isinstance(dimension, Range):
            make = domains.loguniform if dimension.log else domains.uniform
            found[name] = make(dimension.low, dimension.high)
    return found


class MoashaSearcher(Searcher):  # type: ignore[misc]
    """Its random search. It draws from NumPy's global state, which is therefore kept apart here."""

    def __init__(self, scheduler: Any, seed: int) -> None:
        super().__init__(metric=None, mode=None)
        self._scheduler = scheduler
        self._state = np.random.RandomState(seed).get_state()

    def suggest(self, trial_id: str) -> Any:
        """A random config."""
        before = np.random.get_state()
        np.random.set_state(self._state)
        config = self._scheduler.suggest().config
        self._state = np.random.get_state()
        np.random.set_state(before)
        return config

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        """Nothing to learn."""

    def save(self, checkpoint_path: str) -> None:
        """Never called."""

    def restore(self, checkpoint_path: str) -> None:
        """Never called."""


class MoashaScheduler(FIFOScheduler):  # type: ignore[misc]
    """Its stopping rule."""

    def __init__(self, scheduler: Any) -> None:
        super().__init__()
        self._scheduler = scheduler

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Take it into a bracket."""
        self._scheduler.on_trial_add(_syne_trial(trial))

    def on_trial_result(self, tune_controller: Any, trial: Any, result: Any) -> str:
        """STOP or CONTINUE, by the same words."""
        decision = self._scheduler.on_trial_result(_syne_trial(trial), result)
        return str(TrialScheduler.STOP if decision == "STOP" else TrialScheduler.CONTINUE)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: Any) -> None:
        """Syne Tune's own tuner tells of a stopped trial by its removal."""
        if result.get("finished"):
            self._scheduler.on_trial_complete(_syne_trial(trial), result)
        else:
            self._scheduler.on_trial_remove(_syne_trial(trial))


def _syne_trial(trial: Any) -> Any:
    from syne_tune.backend.trial_status import Trial

    return Trial(trial_id=int(trial.trial_id), config=trial.config, creation_time=datetime.now(UTC))


def repaired_priority() -> Any:
    """The ranking that MOASHA's paper describes: by front, then by epsilon-net, objectives on one scale.

    In Syne Tune 0.16 `NonDominatedPriority` hands on the *indices* of the sorted trials where their ranks are
    expected, so what it stops has little to do with the fronts. The rival shall not lose by a slip.
    """
    from syne_tune.optimizer.schedulers.multiobjective.multiobjective_priority import MOPriority
    from syne_tune.optimizer.schedulers.multiobjective.non_dominated_priority import compute_epsilon_net

    from analysis.pareto import nondominated_ranks

    class RepairedPriority(MOPriority):  # type: ignore[misc]
        def priority_unsafe(self, objectives: Any) -> Any:
            fronts = np.array(nondominated_ranks(objectives))
            spread = np.ptp(objectives, axis=0)
            scaled = objectives / np.where(spread > 0, spread, 1.0)
            priorities = fronts * len(fronts)
            newest = fronts == fronts[-1]  # the order within other fronts decides nothing
            priorities[newest] += compute_epsilon_net(scaled[newest], dim=0)
            return priorities

    return RepairedPriority()


def moasha(eta: int, repair: bool = False) -> Maker:
    """A maker of MOASHA with its default priority, or with `repaired_priority`."""

    def make(run: Setting) -> tuple[Any, Any]:
        from syne_tune.optimizer.schedulers.multiobjective.moasha import MOASHA

        rungs = run.table.rungs
        scheduler = MOASHA(
            config_space(sweep_config(run.table).search_space), metrics=["eval_loss", "peak_memory_bytes"],
            time_attr="examples_seen", max_t=rungs[-1], grace_period=rungs[0], reduction_factor=eta,
            multiobjective_priority=repaired_priority() if repair else None, random_seed=run.seed,
        )  # fmt: skip
        return MoashaSearcher(scheduler, run.seed), MoashaScheduler(scheduler)

    return make
