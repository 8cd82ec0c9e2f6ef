"""What fits into a device: the largest batch and sequence, and a grid of ranks and target sets."""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from search.device_memory import required_bytes
from search.estimate_result import Breakdown, Fit, GridCell
from trainables.model_shape import shape_of

if TYPE_CHECKING:
    from search.estimate import Point

GRID_RANKS = (4, 8, 16, 32, 64, 128)
# Where estimates, and the searches for the largest batch and sequence, stop: far beyond any device.
MOST_EXAMPLES = 2**20
MOST_TOKENS = 2**24


def what_fits(point: "Point", device_memory_bytes: int, lora: Breakdown, full: Breakdown) -> Fit:
    """What fits: ``lora`` and ``full`` as given, and by the closed form what differs from ``point`` in a field or two."""

    def fits(peak_bytes: int) -> bool:
        return required_bytes(peak_bytes) <= device_memory_bytes

    return Fit(
        device_memory_bytes=device_memory_bytes,
        needed_bytes=required_bytes(lora.peak_bytes),
        fits=fits(lora.peak_bytes),
        full_needed_bytes=required_bytes(full.peak_bytes),
        full_fits=fits(full.peak_bytes),
        largest_micro_batch=largest(
            lambda examples: fits(point.with_micro_batch(examples).peak_bytes()), 1, MOST_EXAMPLES
        ),
        largest_seq_len=None if shape_of(point.arch).is_recurrent else _longest(point, fits),
        grid=_grid(point, fits),
    )


def _longest(point: "Point", fits: Callable[[int], bool]) -> int | None:
    """The longest sequence. (Layers that go through it in steps would have to be traced at every length: not asked.)"""
    return largest(lambda tokens: fits(replace(point, seq_len=tokens).peak_bytes()), 2, MOST_TOKENS)


def _grid(point: "Point", fits: Callable[[int], bool]) -> list[GridCell]:
    """Rank by rank, the target sets in the order that the point gives them in."""
    cells = []
    for rank in sorted({*GRID_RANKS, point.config.rank}):
        for targets in point.sets:
            peak_bytes = point.with_config(rank, targets).peak_bytes()
            cells.append(GridCell(rank=rank, targets=targets, peak_bytes=peak_bytes, fits=fits(peak_bytes)))
    return cells


def largest(holds: Callable[[int], bool], smallest: int, most: int) -> int | None:
    """The largest number from ``smallest`` to ``most`` for which ``holds``, which is true up to some number.

    >>> largest(lambda n: n * n < 200, 1, 1000)
    14
    """
    if not holds(smallest):
        return None
    low, high = smallest, most + 1
    while high - low > 1:
        middle = (low + high) // 2 if 2 * low >= high else 2 * low
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low
