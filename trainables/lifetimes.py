"""Every storage of a traced step with its size, and what the sizes are at other batches, lengths and ranks.

A storage's size is one product of the step's dimensions: activations grow with examples x tokens, attention scores with
examples x tokens x tokens, adapters with the rank, their activations with both, logits with the supervised positions. Two
traces in which all dimensions differ by unrelated ratios tell which product it is, so all other sizes follow exactly.
"""

from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import NamedTuple, Self

import numpy as np

from trainables.timeline import CATEGORIES, MisalignedError, Phase, Timeline


class StepSize(NamedTuple):
    """The dimensions of a micro-batch on one device, and the adapters' rank.

    ``positions`` are those of all its ``examples`` whose next token is supervised; each has ``tokens`` tokens.
    """

    examples: int
    tokens: int
    positions: int
    rank: int


# What a storage's size can grow with, as exponents of examples, tokens, tokens + 1, positions and rank.
_PRODUCTS = (
    (0, 0, 0, 0, 0),
    (0, 0, 0, 0, 1),  # adapters, their gradients and states
    (1, 1, 0, 0, 0),  # activations
    (1, 1, 0, 0, 1),  # what an adapter's A gives
    (0, 0, 0, 1, 0),  # logits, targets
    (0, 1, 0, 0, 0),  # rotary tables
    (0, 2, 0, 0, 0),  # a mask that examples share
    (1, 2, 0, 0, 0),  # attention scores
    (1, 0, 0, 0, 0),
    (1, 0, 1, 0, 0),  # transformers' search for packed sequences has one position more
    (0, 0, 1, 0, 0),
    (1, 1, 1, 0, 0),  # scores beside a sink (gpt-oss)
)


_OF_PARAMETERS = [CATEGORIES.index(name) for name in ("adapters", "gradients", "optimizer_state")]


@dataclass(frozen=True, eq=False)
class Lifetimes:
    """What lived when: storages are alive after the operators ``births`` to ``deaths``, both included.

    Attributes:
        births, deaths, sizes_bytes, columns: one entry per storage; a column is an index into `CATEGORIES`.
        operators: names of the step's operators.
        phases: as in `Timeline`.
    """

    births: np.ndarray
    deaths: np.ndarray
    sizes_bytes: np.ndarray
    columns: np.ndarray
    operators: tuple[str, ...]
    phases: tuple[Phase, ...]

    @cached_property
    def timeline(self) -> Timeline:
        """Live bytes after every operator."""
        changes = np.zeros((len(self.operators) + 1, len(CATEGORIES)), dtype=np.int64)
        np.add.at(changes, (self.births, self.columns), self.sizes_bytes)
        np.add.at(changes, (self.deaths + 1, self.columns), -self.sizes_bytes)
        return Timeline(changes.cumsum(0)[:-1], self.operators, self.phases)

    def resized(self, other: Self, own_size: StepSize, other_size: StepSize, wanted: StepSize) -> "Lifetimes":
        """The same step at another size, from this one and one more trace.

        Raises:
            MisalignedError: the two are not of the same operators, or a storage's size is no such product.
        """
        if self.operators != other.operators or len(self.births) != len(other.births):
            raise MisalignedError("the operators differ")
        if not (np.array_equal(self.births, other.births) and np.array_equal(self.deaths, other.deaths)):
            raise MisalignedError("storages live differently long")
        rows = np.stack([self.sizes_bytes, other.sizes_bytes, np.isin(self.columns, _OF_PARAMETERS)])
        rows, where = np.unique(rows, axis=1, return_inverse=True)
        sizes = [_size_at(int(a), int(b), bool(c), own_size, other_size, wanted) for a, b, c in rows.T]
        return Lifetimes(
            self.births,
            self.deaths,
            np.array(sizes, dtype=np.int64)[where.reshape(-1)],
            self.columns,
            self.operators,
            self.phases,
        )


def _size_at(
    own: int, other: int, of_parameters: bool, own_size: StepSize, other_size: StepSize, wanted: StepSize
) -> int:
    for exponents in _PRODUCTS:
        before = product(own_size, exponents)
        if own * product(other_size, exponents) == other * before:
            return own * product(wanted, exponents) // before
    # DDP's buckets of DoRA's adapters: magnitudes, which do not grow with the rank, beside what does.
    slope = Fraction(other - own, max(1, other_size.rank - own_size.rank))
    if of_parameters and slope.denominator == 1 and 0 < slope * own_size.rank <= own:
        return own + int(slope) * (wanted.rank - own_size.rank)
    raise MisalignedError(f"{own} and {other} bytes are no product of {own_size} and {other_size}")


def product(size: StepSize, exponents: tuple[int, ...]) -> int:
    """The product of examples, tokens, tokens + 1, positions and rank, each with its exponent."""
    result, factors = 1, (size.examples, size.tokens, size.tokens + 1, size.positions, size.rank)
    for number, exponent in zip(factors, exponents, strict=True):
        result *= number**exponent
    return result


def second_size(first: StepSize, longest: int | None, vary_tokens: bool, vary_rank: bool) -> StepSize:
    """Where to trace a second time, so that every product has a ratio of its own to the first.

    A micro-batch of one example stays one: with several, transformers expands what they share.

    Args:
        first: where the first trace was made.
        longest: most tokens with the same operators; None where there is no bound.
        vary_tokens: whether sizes are products of the tokens at all.
        vary_rank: the same of the rank.
    """
    longer = first.tokens + max(8, first.tokens // 3)
    direction = 1 if longest is None or longer + _MOST_TRIED <= longest else -1
    start = longer if direction == 1 else first.tokens - max(1, first.tokens // 4)
    for more in range(_MOST_TRIED):
        second = StepSize(
            examples=first.examples + (first.examples > 1),
            tokens=max(2, start + direction * more) if vary_tokens else first.tokens,
            positions=first.positions + first.positions // 2 + 1 + more,
            rank=2 * first.rank + 1 if vary_rank else first.rank,
        )
        if _are_told_apart(first, second) and (second.tokens != first.tokens or not vary_tokens):
            return second
    raise MisalignedError(f"no second size for {first}")


_MOST_TRIED = 20  # far more than it takes


def _are_told_apart(first: StepSize, second: StepSize) -> bool:
    """Whether products that differ in what varies have different ratios."""
    longer = first.tokens != second.tokens
    varying = first.examples != second.examples, longer, longer, True, first.rank != second.rank
    seen: dict[Fraction, tuple[int, ...]] = {}
    for exponents in _PRODUCTS:
        told = tuple(e if varies else 0 for e, varies in zip(exponents, varying, strict=True))
        ratio = Fraction(product(second, exponents), product(first, exponents))
        if seen.setdefault(ratio, told) != told:
            return False
    return True
