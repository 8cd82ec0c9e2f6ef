"""What a sampler is shown of trials that did not train to the end, so that they help it and do not mislead it.

The study keeps what happened. Before every suggestion a strategy makes from it what the sampler sees, so that a
stopped trial is judged by all that is known by then, not by what was known when it stopped.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import numpy as np

# Names of the study's attributes of a trial: trial id, losses at the rungs, memory; and of the constraint.
TRIAL_ID, RUNGS, MEMORY, EXCESS = "trial_id", "rungs", "peak_memory_bytes", "memory_budget"
# Fewer finished trials than this say too little of how losses at a rung end; stopped trials are left out until then.
# The same four that a sampler starts with at the least.
MIN_FINISHED = 4


@dataclass(frozen=True)
class Observation:
    """One trial of the study as far as it is known.

    ``rungs`` are ``(examples seen, eval loss)``, ascending. ``memory_bytes`` is measured, or predicted for a config
    that was not launched. ``excess`` is how far the memory is over the budget, as a share of the budget.
    """

    number: int
    params: Mapping[str, Any]
    state: Literal["finished", "stopped", "running", "infeasible"]
    rungs: tuple[tuple[int, float], ...] = ()
    memory_bytes: float | None = None
    excess: float = 0.0

    @property
    def loss(self) -> float | None:
        """The newest loss in nats; None before the first rung."""
        return self.rungs[-1][1] if self.rungs else None


@dataclass(frozen=True)
class Shown:
    """A trial as the sampler sees it: with values it is complete, without them pruned, or still running.

    ``values`` are loss and memory. ``missed`` (a share of the training) or ``excess`` (a share of the memory budget)
    above 0 make the trial infeasible, worse the larger they are.
    """

    params: Mapping[str, Any]
    values: tuple[float, float] | None = None
    running: bool = False
    missed: float = 0.0
    excess: float = 0.0


class Strategy(Protocol):
    """How stopped trials are shown."""

    def show(self, observations: Sequence[Observation], full: int) -> list[Shown]:
        """All observations as the sampler sees them; ``full`` is the full resource in examples."""
        ...


class LeaveOut:
    """A stopped trial is shown as pruned, without any value."""

    def show(self, observations: Sequence[Observation], full: int) -> list[Shown]:
        """See `Strategy`."""
        worst = _worst_loss(observations)
        return [_plainly(observation, worst) for observation in observations]


class Constraint:
    """A stopped trial is shown with the loss it had, infeasible by the share of the training that it missed."""

    def show(self, observations: Sequence[Observation], full: int) -> list[Shown]:
        """See `Strategy`."""
        worst = _worst_loss(observations)
        return [self._show_one(observation, worst, full) for observation in observations]

    @staticmethod
    def _show_one(seen: Observation, worst: float | None, full: int) -> Shown:
        if seen.state != "stopped" or seen.loss is None or seen.memory_bytes is None:
            return _plainly(seen, worst)
        return Shown(seen.params, (seen.loss, seen.memory_bytes), missed=1 - seen.rungs[-1][0] / full)


class Extrapolate:
    """A stopped trial, or one under way, is shown with the loss that trials of its rank at its rung ended with.

    While that is unknown because too few have finished, all are shown with their losses at the first rung, where they
    can be compared. Where too few went on from a later rung, the trials there are shown as `LeaveOut` does.
    """

    def show(self, observations: Sequence[Observation], full: int) -> list[Shown]:
        """See `Strategy`."""
        worst = _worst_loss(observations)
        expected = FinalLoss(observations)
        if not expected.is_known:
            return [self._at_first_rung(observation, worst) for observation in observations]
        return [self._show_one(observation, worst, expected) for observation in observations]

    @staticmethod
    def _at_first_rung(seen: Observation, worst: float | None) -> Shown:
        if seen.state == "infeasible" or not seen.rungs or seen.memory_bytes is None:
            return _plainly(seen, worst)
        return Shown(seen.params, (seen.rungs[0][1], seen.memory_bytes))

    @staticmethod
    def _show_one(seen: Observation, worst: float | None, expected: "FinalLoss") -> Shown:
        loss = expected(seen) if seen.state in ("stopped", "running") else None
        if loss is None or seen.memory_bytes is None:
            return _plainly(seen, worst)
        return Shown(seen.params, (loss, seen.memory_bytes))


class FinalLoss:
    """What the loss at a rung becomes at the full resource, by rank (quantile matching).

    Of the trials that got there, the sorted losses at the rung are matched with the sorted final losses, and between
    them the line is straight. A loss above them all, as most stopped trials have, continues with the line's mean
    slope, at most 1, as training brings losses together. A loss below them all ends as the best did.
    """

    def __init__(self, observations: Sequence[Observation]) -> None:
        curves = [dict(seen.rungs) for seen in observations if seen.state == "finished" and seen.rungs]
        self._matched: dict[int, Any] = {}
        for examples in {examples for curve in curves for examples in curve}:
            pairs = [(curve[examples], curve[max(curve)]) for curve in curves if examples in curve]
            if len(pairs) >= MIN_FINISHED:
                self._matched[examples] = np.sort(np.array(pairs), axis=0).T

    @property
    def is_known(self) -> bool:
        """Whether so many trials have finished that something can be said."""
        return bool(self._matched)

    def __call__(self, seen: Observation) -> float | None:
        """The expected final loss in nats; None before the first rung or where too few trials have gone on."""
        if not seen.rungs or seen.rungs[-1][0] not in self._matched:
            return None
        examples, loss = seen.rungs[-1]
        at_rung, at_end = self._matched[examples]
        spread = at_rung[-1] - at_rung[0]
        slope = min(1.0, (at_end[-1] - at_end[0]) / spread) if spread > 0 else 1.0
        return float(np.interp(loss, at_rung, at_end) + slope * max(0.0, loss - at_rung[-1]))


def with_lies(shown: Sequence[Shown]) -> list[Shown]:
    """Trials under way as if they had ended with the median of both objectives; as they are while nothing has ended."""
    values = [each.values for each in shown if each.values]
    if not values:
        return list(shown)
    loss, memory = np.median(np.array(values), axis=0)
    return [
        replace(each, values=(float(loss), float(memory)), running=False) if each.running else each
        for each in shown
    ]


def _worst_loss(observations: Sequence[Observation]) -> float | None:
    return max((loss for seen in observations for _, loss in seen.rungs), default=None)


def _plainly(seen: Observation, worst: float | None) -> Shown:
    """With values when finished; over budget as infeasible, with the worst loss seen; else without values."""
    known = None if seen.loss is None or seen.memory_bytes is None else (seen.loss, seen.memory_bytes)
    if seen.state == "infeasible":
        stand_in = None if worst is None or seen.memory_bytes is None else (worst, seen.memory_bytes)
        return Shown(seen.params, stand_in, excess=seen.excess)
    return Shown(seen.params, known if seen.state == "finished" else None, running=seen.state == "running")


STRATEGIES: Mapping[str, Strategy] = {
    "leave-out": LeaveOut(),
    "constraint": Constraint(),
    "extrapolate": Extrapolate(),
}
DEFAULT_STRATEGY = "extrapolate"
