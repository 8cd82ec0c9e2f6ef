"""Between a sweep's study and the sampler: what is read from the one, and in which form it is shown to the other.

Imports Optuna: import it where a study is opened.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial, TrialState

from analysis.pareto import nondominated_ranks
from search.fidelity import EXCESS, MEMORY, RUNGS, Observation, Shown, Strategy
from search.space import SearchSpace


def distributions_of(space: SearchSpace) -> dict[str, BaseDistribution]:
    """The dimensions that are searched (not fixed), as Optuna names them."""
    trial = optuna.create_study().ask()
    space.suggest(trial)
    return dict(trial.distributions)


@dataclass(frozen=True)
class Axis:
    """A dimension as samplers see it: numbers to choose from are places in their order, so that 16 is next to 8.

    ``values`` are those numbers, ascending; empty for other dimensions, which are shown as they are.
    """

    original: BaseDistribution
    distribution: BaseDistribution
    values: tuple[float, ...] = ()

    def to_place(self, value: Any) -> Any:
        """What the sampler sees of a value."""
        return self.values.index(value) if self.values else value

    def to_value(self, place: Any) -> Any:
        """The value that the sampler means."""
        return self.values[place] if self.values else place

    def contains(self, value: Any) -> bool:
        """Whether a value (of a trial from elsewhere) lies on the axis."""
        try:
            return bool(self.original._contains(self.original.to_internal_repr(value)))
        except (ValueError, TypeError):
            return False


def axis_of(distribution: BaseDistribution) -> Axis:
    """The axis of a dimension."""
    choices = getattr(distribution, "choices", ())
    numbers = all(isinstance(choice, int | float) and not isinstance(choice, bool) for choice in choices)
    if not isinstance(distribution, CategoricalDistribution) or not numbers:
        return Axis(distribution, distribution)
    return Axis(distribution, IntDistribution(0, len(choices) - 1), tuple(sorted(choices)))


class Showcase(InMemoryStorage):
    """A storage with trials on show beside its own one; only samplers that read all trials are served."""

    def __init__(self, shown: Sequence[FrozenTrial]) -> None:
        super().__init__()
        self._shown = shown

    def get_all_trials(self, study_id: int, deepcopy: bool = True, states: Any = None) -> list[FrozenTrial]:
        """The trial that is asked for, then those on show; states as Optuna's storages take them."""
        shown = [trial for trial in self._shown if states is None or trial.state in states]
        return [*super().get_all_trials(study_id, deepcopy, states), *shown]


def frozen(shown: Shown, number: int, axes: Mapping[str, Axis], constrained: bool) -> FrozenTrial:
    """A trial on show. With ``constrained`` it carries every constraint, as Optuna's GP needs of all or none."""
    complete = TrialState.COMPLETE if shown.values else TrialState.PRUNED
    trial = FrozenTrial(
        number=number,
        trial_id=number,
        state=TrialState.RUNNING if shown.running else complete,
        value=None,
        values=shown.values,
        params={name: axis.to_place(shown.params[name]) for name, axis in axes.items()},
        distributions={name: axis.distribution for name, axis in axes.items()},
        datetime_start=None,
        datetime_complete=None,
        user_attrs={},
        system_attrs={},
        intermediate_values={},
    )
    if constrained and not shown.running:
        trial.set_constraint("missed training", shown.missed)
        trial.set_constraint("memory over budget", shown.excess)
    return trial


def observe(
    trial: FrozenTrial, state: TrialState, values: Sequence[float] | None, full: int
) -> Observation | None:
    """What a trial of the study says, given how it ended; None of a failed one."""
    rungs = tuple((int(examples), float(loss)) for examples, loss in trial.user_attrs.get(RUNGS, ()))
    memory, excess = trial.user_attrs.get(MEMORY), trial.constraints.get(EXCESS, 0.0)
    params = dict(trial.params)
    if state == TrialState.RUNNING:
        return Observation(trial.number, params, "running", rungs, memory)
    if state == TrialState.COMPLETE and values is not None:
        below = tuple(rung for rung in rungs if rung[0] < full)
        return Observation(trial.number, params, "finished", (*below, (full, values[0])), values[1])
    if state == TrialState.PRUNED:
        return Observation(
            trial.number, params, "infeasible" if excess > 0 else "stopped", rungs, memory, excess
        )
    return None


def most_telling(observations: Sequence[Observation], strategy: Strategy, full: int, limit: int) -> set[int]:
    """The numbers of ``limit`` trials worth remembering: half the best by non-dominated rank, half the newest.

    Those that finished are enough for the best half only while there are any; trials without values rank last.
    """
    shown = strategy.show(observations, full)
    good = [
        index for index, each in enumerate(shown) if each.values and each.missed <= 0 and each.excess <= 0
    ]
    ranks = nondominated_ranks([shown[index].values or () for index in good])
    best = sorted(zip(ranks, good, strict=True))[: limit // 2]
    kept = {observations[index].number for _, index in best}
    for seen in sorted(observations, key=lambda each: -each.number):
        if len(kept) >= limit:
            break
        kept.add(seen.number)
    return kept
