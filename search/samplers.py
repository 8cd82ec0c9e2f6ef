"""The samplers behind their names, made to forget: every suggestion follows from the seed and the study alone.

Imports Optuna: import it where a study is opened.
"""

import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from search.config import SweepConfig
from search.fidelity import RUNGS, TRIAL_ID, Observation, Strategy, with_lies
from search.hypervolume_sampler import HypervolumeSampler
from search.points import point_at
from search.showcase import (
    Showcase,
    axis_of,
    distributions_of,
    frozen,
    most_telling,
    observe,
)
from search.space import SearchSpace

# How many trials a sampler is shown at the least (at the most twice as many). A suggestion then takes tens of
# milliseconds with tpe, tenths of a second with hypervolume, and seconds with gp; both of these grow with the cube.
SHOWN_TRIALS = {"hypervolume": 40, "tpe": 100, "gp": 40, "nsga2": 100}
# So many trials have to have reported before they are modelled. With 3 or 8 the replay benchmark's curves got no better.
MODELLED_FROM = 5
# One suggestion in three of tpe is random, so that it does not stick to the first good part of the front: BOHB's share
# (arXiv 1807.01774, random_fraction).
RANDOM_EVERY = 3
DIRECTIONS = ["minimize", "minimize"]  # loss, memory


def make_sampler(config: SweepConfig, strategy: Strategy) -> BaseSampler:
    """The sampler that a configuration names."""
    space = config.search_space
    if config.sampler == "grid":
        return GridOrder(space, config.seed, config.trials)
    starts = max(4, min(10, config.trials // 2))  # random ones; Optuna's own default is 10
    shown_space = {name: axis_of(each).distribution for name, each in distributions_of(space).items()}
    makers: dict[str, Callable[[int], BaseSampler]] = {
        "hypervolume": lambda seed: HypervolumeSampler(
            shown_space, seed, startup=MODELLED_FROM, memory_budget_bytes=config.memory_budget
        ),
        # Each dimension by itself, as is Optuna's default for several objectives: with the joint model of all
        # dimensions 20 sweeps of 4,500 examples on a made-up space ended with 7 % less hypervolume, below random search.
        # constant_liar keeps parallel workers from asking for the same point.
        "tpe": lambda seed: TPESampler(
            seed=seed, multivariate=False, constant_liar=True, n_startup_trials=starts
        ),
        "gp": lambda seed: GPSampler(seed=seed, n_startup_trials=starts, warn_independent_sampling=False),
        # Optuna's 50 where there are trials for it; else a few generations' worth.
        "nsga2": lambda seed: SteadyNsga2(seed=seed, population_size=max(4, min(50, config.trials // 4))),
        "random": lambda seed: RandomSampler(seed=seed),
    }
    return ForgetfulSampler(
        space,
        makers[config.sampler],
        strategy,
        seed=config.seed,
        full=config.rungs[-1],
        limit=SHOWN_TRIALS.get(config.sampler, 0),
        random_every=RANDOM_EVERY if config.sampler == "tpe" else 0,
        # With trials under way Optuna's GP integrates over their outcomes, which took several times as long
        # (measured with 8); lying that they ended in the middle keeps it off their points as well.
        lies=config.sampler == "gp",
    )


class SpaceSampler(BaseSampler):
    """Base: gives every dimension of a space at once."""

    def __init__(self, space: SearchSpace) -> None:
        self._distributions = distributions_of(space)

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """All dimensions that are searched."""
        return self._distributions

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Never needed, as `sample_relative` gives every dimension."""
        raise KeyError(f"{param_name} is not in the search space")

    def remember(self, study: optuna.Study, trial_id: Any, seen: Observation | None) -> None:
        """Learn of a trial under way; nothing here."""


class ForgetfulSampler(SpaceSampler):
    """Asks a fresh sampler, seeded with (seed, trial number), on what a strategy shows it of the study.

    Args:
        space: the search space.
        make: an Optuna sampler from a seed.
        strategy: how trials that did not train to the end are shown.
        seed: the sweep's seed.
        full: the full resource in examples.
        limit: how many trials with results are shown at the least. At twice as many, half of those that stay are the
            best and half the newest. With 0 the sampler learns nothing.
        random_every: of this many suggestions one is random; 0 for none.
        lies: show a trial under way as if it had ended with the median of what is known (a constant liar, Ginsbourger
            et al. 2010, "Kriging is well-suited to parallelize optimization").
    """

    def __init__(
        self,
        space: SearchSpace,
        make: Callable[[int], BaseSampler],
        strategy: Strategy,
        *,
        seed: int,
        full: int,
        limit: int,
        random_every: int = 0,
        lies: bool = False,
    ) -> None:
        super().__init__(space)
        self._axes = {name: axis_of(distribution) for name, distribution in self._distributions.items()}
        self._make, self._strategy, self._seed, self._full = make, strategy, seed, full
        self._limit, self._random_every, self._lies = limit, random_every, lies
        self._memory: dict[Any, Observation] | None = None

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """A point of the space."""
        # Of a trial that is taken up again every dimension is known; of an enqueued one perhaps only some.
        if set(self._axes) <= set(trial.params):
            return {}
        seed = mixed_seed(self._seed, trial.number)
        at_random = self._random_every > 0 and trial.number % self._random_every == 0
        view = optuna.create_study(
            storage=Showcase(self._show(study) if self._limit and not at_random else ()),
            sampler=RandomSampler(seed=seed) if at_random else self._make(seed),
            directions=DIRECTIONS,
        )
        asked = view.ask({name: axis.distribution for name, axis in self._axes.items()})
        return {name: self._axes[name].to_value(place) for name, place in asked.params.items()}

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        """Remember how a trial ended, so that suggestions need not read the whole study."""
        self.remember(study, _key(trial), observe(trial, state, values, self._full))

    def remember(self, study: optuna.Study, trial_id: Any, seen: Observation | None) -> None:
        """Keep what is newly known of a trial (nothing if it failed); forget what tells least."""
        if not self._limit:
            return
        memory = self._recall(study)
        memory.pop(trial_id, None)  # also an older entry of a trial that went on after an interruption
        if seen is not None:
            memory[trial_id] = seen
        if len(memory) > 2 * self._limit:
            kept = most_telling(list(memory.values()), self._strategy, self._full, self._limit)
            self._memory = {key: seen for key, seen in memory.items() if seen.number in kept}

    def _recall(self, study: optuna.Study) -> dict[Any, Observation]:
        """What is remembered, at first from the study."""
        if self._memory is None:
            self._memory = {}
            for trial in study.get_trials(deepcopy=False) if self._limit else ():
                seen = observe(trial, trial.state, trial.values, self._full)
                if seen is None or seen.state != "running" or seen.rungs:
                    self.remember(study, _key(trial), seen)
        return self._memory

    def _show(self, study: optuna.Study) -> list[FrozenTrial]:
        """The trials as the strategy shows them, in the order of their numbers."""
        memory = self._recall(study)
        under_way = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        silent = [trial for trial in under_way if RUNGS not in trial.user_attrs][-self._limit :]
        new = [observe(trial, trial.state, None, self._full) for trial in silent]
        seen = [each for each in (*memory.values(), *new) if each is not None and self._covers(each)]
        shown = self._strategy.show(sorted(seen, key=lambda each: each.number), self._full)
        shown = with_lies(shown) if self._lies else shown
        constrained = any(each.missed > 0 or each.excess > 0 for each in shown)
        # 0 is the trial that is asked for.
        return [frozen(each, number, self._axes, constrained) for number, each in enumerate(shown, start=1)]

    def _covers(self, seen: Observation) -> bool:
        """False for a trial of another space, and for one that has been created but not been given its point."""
        return all(
            name in seen.params and axis.contains(seen.params[name]) for name, axis in self._axes.items()
        )


class SteadyNsga2(NSGAIISampler):
    """NSGA-II without generations: parents are the elite of all that ended so far, so that no worker waits.

    Steady-state selection as in Durillo et al. 2009, "On the effect of the steady-state selection scheme in
    multi-objective genetic algorithms".
    """

    def get_trial_generation(self, study: optuna.Study, trial: FrozenTrial) -> int:
        """0, random ones, until there is a population to choose parents from; then 1."""
        return int(len(self.get_population(study, 0)) >= (self.population_size or 0))

    def get_population(self, study: optuna.Study, generation: int) -> list[FrozenTrial]:
        """All complete trials."""
        return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)) if generation == 0 else []


def mixed_seed(seed: int, number: int) -> int:
    """A seed for the ``number``-th suggestion of a sweep, unlike those of other suggestions and sweeps."""
    return int(np.random.SeedSequence((seed, number)).generate_state(1)[0])


def _key(trial: FrozenTrial) -> Any:
    return trial.user_attrs.get(TRIAL_ID, trial.number)


class GridOrder(SpaceSampler):
    """Every point of a finite space, in an order shuffled by the seed: the trial's number tells which."""

    def __init__(self, space: SearchSpace, seed: int, trials: int) -> None:
        super().__init__(space)
        self._space, size = space, int(space.size())
        self._order = random.Random(seed).sample(range(size), min(size, trials))

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The grid's next point; beyond the planned number of trials the order begins again."""
        point = point_at(self._space, self._order[trial.number % len(self._order)])
        return {name: point[name] for name in search_space}
