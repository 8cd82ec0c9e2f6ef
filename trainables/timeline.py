"""Live bytes over a training step, operator by operator, and how those of other sizes follow from two of them."""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from trainables.step_memory import PredictedMemory

CATEGORIES = tuple(
    field.name for field in fields(PredictedMemory) if field.name not in ("moment", "operator")
)
"""The categories of `PredictedMemory`, in the order of a timeline's columns."""

FORWARD, BACKWARD, UPDATE = "forward", "backward", "optimizer step"
_LOSS_OPERATORS = ("log_softmax", "nll_loss")
_WINDOW = 30  # operators that must agree for two places to be the same; shorter than any layer's


class Phase(NamedTuple):
    """A part of the step; ``start`` is its first operator."""

    name: str
    start: int


@dataclass(frozen=True)
class Timeline:
    """Live bytes after every operator of a step.

    Attributes:
        live: ``[operators, categories]``, whole numbers.
        operators: their ATen names.
        phases: in order; the first starts at 0.
    """

    live: np.ndarray
    operators: tuple[str, ...]
    phases: tuple[Phase, ...]

    @property
    def phase_lengths(self) -> tuple[int, ...]:
        """Number of operators per phase."""
        bounds = [phase.start for phase in self.phases] + [len(self.operators)]
        return tuple(end - start for start, end in pairwise(bounds))

    def moment(self, operator: int) -> str:
        """When in the step the ``operator``-th one ran, in words."""
        index = max(i for i, phase in enumerate(self.phases) if phase.start <= operator)
        name, start = self.phases[index].name, self.phases[index].start
        if name == UPDATE:
            return UPDATE
        if any(part in self.operators[operator] for part in _LOSS_OPERATORS):
            return "loss"
        in_first_half = operator - start < self.phase_lengths[index] // 2
        return f"{'last' if in_first_half == (name == BACKWARD) else 'first'} layers' {name}"


class MisalignedError(ValueError):
    """Two timelines are not of the same operators."""


def extrapolate(low: Timeline, high: Timeline, share: float) -> Timeline:
    """``low + share x (high - low)``, operator by operator: 0 gives ``low``, 1 ``high``.

    ``high`` may have one layer more than ``low``, which has four: see `_counterparts`.

    Raises:
        MisalignedError: the operators differ.
    """
    if [phase.name for phase in low.phases] != [phase.name for phase in high.phases]:
        raise MisalignedError("the phases differ")
    index = np.empty(len(low.operators), dtype=np.int64)
    for (_, start), (_, high_start), n, m in zip(
        low.phases, high.phases, low.phase_lengths, high.phase_lengths, strict=True
    ):
        names, high_names = low.operators[start : start + n], high.operators[high_start : high_start + m]
        index[start : start + n] = high_start + _counterparts(names, high_names)
    live = low.live + share * (high.live[index] - low.live)
    return Timeline(live, low.operators, low.phases)


def _counterparts(low: tuple[str, ...], high: tuple[str, ...]) -> np.ndarray:
    """For each operator of ``low`` its place in ``high``.

    What ``high`` has more is one repetition of every pattern that ``low`` has four of, one per layer (or per parameter of
    a layer). It is left out after the second: the first two then correspond, counted from the start, and the last
    two, counted from the end. What lies between them in a deep model has no extremes, since from layer to layer the
    live bytes change by a constant.
    """
    if low == high:
        return np.arange(len(low))
    shifts = np.zeros(len(low) + 1, dtype=np.int64)
    for start, length in _insertions(low, high):
        shifts[start] += length
    index: np.ndarray = np.arange(len(low)) + shifts.cumsum()[:-1]
    if len(low) and (index[-1] >= len(high) or low != tuple(high[i] for i in index)):
        raise MisalignedError("the operators differ")
    return index


def _insertions(low: tuple[str, ...], high: tuple[str, ...]) -> Iterator[tuple[int, int]]:
    """Where, counted in ``low``, ``high`` has more, and how much.

    A difference is seen where a pattern ends in ``low`` and is repeated once more in ``high``; the place is then two
    repetitions earlier.
    """
    position = shift = 0
    while position + shift < len(high):
        if position < len(low) and low[position] == high[position + shift]:
            position += 1
            continue
        lengths = range(1, len(high) - position - shift + 1)
        length = next((n for n in lengths if _explains(low, high, position, shift, n)), None)
        if length is None:
            raise MisalignedError("the operators differ")
        yield position - 2 * length, length
        shift += length


def _explains(low: tuple[str, ...], high: tuple[str, ...], position: int, shift: int, length: int) -> bool:
    """Whether both go on alike if ``high`` has ``length`` more, be it here or two repetitions earlier."""
    start, end = position - 2 * length, position + _WINDOW
    return start >= 0 and low[start:end] == high[start + shift + length : min(end, len(low)) + shift + length]
