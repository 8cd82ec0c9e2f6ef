"""A sampler for a front of loss against memory: the config that may add most to the front's hypervolume.

Thompson sampling with the hypervolume as its score (TSEMO: Bradford, Schweidtmann and Lapkin 2018, "Efficient
multiobjective optimization employing Gaussian processes, spectral sampling and a genetic algorithm"), made simple by what
is special here: memory follows from the settings without noise, so that a few trials tell it for all, and only the loss
is uncertain.

Imports Optuna: import it where a study is opened.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import optuna

# Optuna's own mapping of a space to the unit cube, on which its samplers build (a choice becomes one column each).
from optuna._transform import _SearchSpaceTransform
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from analysis.pareto import front_indices
from search.one_thread import one_thread
from search.regression import Array, Regression

RANDOM_CANDIDATES, NEARBY_CANDIDATES = 400, 200
# How far a candidate lies from the good config that it is a neighbour of, in the dimensions in which it differs (one or
# two), as a standard deviation in shares of the dimension's range.
STEP = 0.15
# How many of the best losses have neighbours among the candidates, beside the front.
BEST_LOSSES = 3


class HypervolumeSampler(BaseSampler):
    """Chooses among random configs and neighbours of the best ones by the hypervolume that a drawn loss would add.

    Args:
        space: the dimensions to suggest, by name.
        seed: of the candidates and of the draws.
        startup: how many trials must have values before they are modelled; random configs until then.
        memory_budget_bytes: what needs more adds nothing.
    """

    def __init__(
        self,
        space: Mapping[str, BaseDistribution],
        seed: int,
        *,
        startup: int,
        memory_budget_bytes: float | None = None,
    ) -> None:
        self._space, self._startup, self._budget = dict(space), startup, memory_budget_bytes
        self._random = np.random.default_rng(seed)

    @cached_property
    def _cube(self) -> _SearchSpaceTransform:
        return _SearchSpaceTransform(self._space, transform_0_1=True)

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """All dimensions."""
        return self._space

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Never needed, as `sample_relative` gives every dimension."""
        raise KeyError(f"{param_name} is not in the search space")

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """A config."""
        trials = study.get_trials(deepcopy=False)
        seen = [each for each in trials if each.state == TrialState.COMPLETE]
        feasible = np.array(
            [all(value <= 0 for value in each.constraints.values()) for each in seen], dtype=bool
        )
        candidates = self._random.uniform(size=(RANDOM_CANDIDATES, self._cube.bounds.shape[0]))
        if feasible.sum() < self._startup:
            return self._config(candidates[0])
        running = [each for each in trials if each.state == TrialState.RUNNING and each.params]
        with one_thread("sklearn.gaussian_process"):
            return self._config(self._best(seen, feasible, running, candidates))

    def _best(
        self, seen: list[FrozenTrial], feasible: Array, running: list[FrozenTrial], candidates: Array
    ) -> Array:
        """The place that adds most, among the candidates and neighbours of the best configs."""
        belief = _Belief(
            self._places(seen), np.array([each.values for each in seen]), feasible, self._places(running)
        )
        neighbours = [self._neighbour(place) for place in self._some(belief.good_places)]
        places = self._places_of_configs([self._config(place) for place in (*candidates, *neighbours)])
        gains = belief.gains(places, self._budget, self._random)
        return np.asarray(places[int(gains.argmax())])

    def _places(self, trials: Sequence[FrozenTrial]) -> Array:
        return self._places_of_configs([trial.params for trial in trials])

    def _places_of_configs(self, configs: Sequence[Mapping[str, Any]]) -> Array:
        rows = [self._cube.transform(dict(config)) for config in configs]
        return np.array(rows).reshape(len(rows), self._cube.bounds.shape[0])

    def _config(self, place: Array) -> dict[str, Any]:
        return dict(self._cube.untransform(place))

    def _some(self, places: Array) -> Array:
        return places[self._random.integers(len(places), size=NEARBY_CANDIDATES)]

    def _neighbour(self, place: Array) -> Array:
        """A place that differs in one or two dimensions: a choice is drawn anew, a number moves a little."""
        found = place.copy()
        names = self._random.permutation(list(self._space))[: 1 + self._random.integers(2)]
        for name in names:
            columns = self._cube.column_to_encoded_columns[list(self._space).index(name)]
            if isinstance(self._space[name], CategoricalDistribution):
                found[columns] = self._random.uniform(size=len(columns))
            else:
                found[columns] = np.clip(place[columns] + STEP * self._random.normal(), 0.0, 1.0)
        return found


class _Belief:
    """What the trials say of losses and memories anywhere.

    Args:
        places: ``[n, d]`` in the unit cube.
        values: ``[n, 2]``, loss and memory.
        feasible: ``[n]``; of the others only the memory is believed.
        running: ``[m, d]``, places under way: as if the expected losses had been found there (kriging believer,
            see `Regression.believing`), so that parallel workers get different configs.
    """

    def __init__(self, places: Array, values: Array, feasible: Array, running: Array) -> None:
        self._memory = Regression(places, np.log(values[:, 1]))
        self._loss = Regression(places[feasible], values[feasible, 0]).believing(running)
        smooth = self._loss(np.vstack([places[feasible], running]))
        memories = np.concatenate([values[feasible, 1], np.exp(self._memory(running))])
        self._points = np.column_stack([smooth, memories])
        self._reference = values[feasible].max(axis=0)
        ended = self._points[: feasible.sum()]
        best = {*np.argsort(ended[:, 0])[:BEST_LOSSES].tolist(), *front_indices(ended.tolist())}
        self.good_places = places[feasible][sorted(best)]

    def gains(self, places: Array, budget: float | None, random: np.random.Generator) -> Array:
        """``[k]``: what candidates at ``[k, d]`` add to the hypervolume if their losses are as one draw of them.

        The draws are independent and hold the noise of measuring, too: with draws of the smooth trend alone, the sampler
        returned to the same neighbourhood again and again.
        """
        mean, deviation = self._loss.predict(places)
        losses = mean + deviation * random.normal(size=len(mean))
        worst_loss, most_memory = self._reference
        reference = (worst_loss, most_memory if budget is None else min(most_memory, budget))
        return added_hypervolume(self._points, reference, losses, np.exp(self._memory(places)))


def added_hypervolume(points: Array, reference: tuple[float, float], losses: Array, memories: Array) -> Array:
    """``[k]``: by how much each of k further points alone would raise the hypervolume of ``points`` (``[n, 2]``).

    Between two neighbouring memories the front's loss is constant, so a point adds a rectangle of each strip to its
    right.

    >>> added_hypervolume(np.array([[1.0, 2.0]]), (3.0, 4.0), np.array([2.0, 0.5]), np.array([1.0, 3.0])).tolist()
    [1.0, 0.5]
    """
    inner = points[(points < reference).all(axis=1)]
    inner = inner[np.argsort(inner[:, 1])]
    edges = np.concatenate([[-np.inf], inner[:, 1], [reference[1]]])
    ceilings = np.concatenate([[reference[0]], np.minimum.accumulate(inner[:, 0])])
    widths = np.clip(edges[1:] - np.maximum(edges[:-1], memories[:, None]), 0.0, None)
    heights = np.clip(ceilings - losses[:, None], 0.0, None)
    return np.asarray((widths * heights).sum(axis=1))
