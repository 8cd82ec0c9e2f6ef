"""A table of recorded learning curves, and how a suggested config is answered from it."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from analysis.pareto import front_indices, hypervolume
from search.errors import InputError
from tests.benchmarks.replay.curves import Row, Rung, cell, parse_row, place, read_lines
from tests.benchmarks.replay.interpolation import Interpolation

Answers = Literal["interpolated", "nearest"]
MIN_ROWS = 20  # for an interpolation: fewer say nothing about length scales in five dimensions


@dataclass(frozen=True)
class CurveTable:
    """Recorded curves with one header.

    How a config is answered that was not recorded is up to ``answers``: ``interpolated`` (the default, see
    `tests.benchmarks.replay.interpolation` for how and why) or ``nearest``, the nearest row as it is: every answer was
    then really measured and none can be better than the table's front, but near configs are all the same. Front,
    reference point and hypervolume are always those of the recorded rows. ``base`` is the untouched model's loss.
    """

    rungs: tuple[int, ...]
    size: str
    rows: tuple[Row, ...]
    space: Mapping[str, Any] | None = None
    base: Mapping[str, Any] | None = None
    answers: Answers = "interpolated"
    _groups: dict[tuple[Any, ...], NDArray[np.intp]] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def load(cls, *paths: str | Path, answers: Answers = "interpolated") -> "CurveTable":
        """Read files whose headers agree in size, rungs, space and data.

        Raises:
            InputError: a file cannot be read, a line is not a curve, or the headers differ.
        """
        header: dict[str, Any] | None = None
        rows: list[Row] = []
        for path in map(Path, paths):
            lines = read_lines(path)
            if not lines or "rungs" not in lines[0][1] or "size" not in lines[0][1]:
                raise InputError(f"{path}, line 1: not the header of a curve table (needs size and rungs)")
            own = lines[0][1]
            header = header or own
            for name in ("size", "rungs", "space", "data", "base"):
                if own.get(name) != header.get(name):
                    raise InputError(f"{path}, line 1: {name} is not that of {paths[0]}")
            rows += [parse_row(line, own["rungs"], f"{path}, line {number}") for number, line in lines[1:]]
        complete = sum(row.failure is None for row in rows)
        if header is None or not complete:
            raise InputError(f"no complete curves in {', '.join(map(str, paths)) or 'no files'}")
        if answers == "interpolated" and complete < MIN_ROWS:
            raise InputError(
                f"{complete} complete curves are too few to interpolate: {MIN_ROWS}, or nearest answers"
            )
        return cls(
            tuple(header["rungs"]),
            header["size"],
            tuple(rows),
            header.get("space"),
            header.get("base"),
            answers,
        )

    @cached_property
    def points(self) -> list[tuple[float, float]]:
        """``(loss, bytes)`` of all rows that completed."""
        return [row.point for row in self.rows if row.failure is None]

    @cached_property
    def reference(self) -> tuple[float, float]:
        """The worst loss and the most memory in the table."""
        return max(loss for loss, _ in self.points), max(memory for _, memory in self.points)

    @cached_property
    def front(self) -> list[tuple[float, float]]:
        """The true front, without duplicates."""
        return sorted({self.points[index] for index in front_indices(self.points)})

    @cached_property
    def hypervolume(self) -> float:
        """Of the whole table, loss times bytes below `reference`."""
        return hypervolume(self.points, self.reference)

    @cached_property
    def seconds(self) -> float:
        """Worker seconds of training every row to the full resource."""
        return sum(row.seconds for row in self.rows)

    @cached_property
    def _places(self) -> NDArray[np.float64]:
        return np.array([place(row.config) for row in self.rows])

    @cached_property
    def _scale(self) -> NDArray[np.float64]:
        spread: NDArray[np.float64] = np.ptp(self._places, axis=0)
        return np.where(spread > 0, spread, 1.0)

    @cached_property
    def interpolation(self) -> Interpolation:
        """Fitted when it is first needed: some seconds."""
        rows = [row for row in self.rows if row.failure is None]
        return Interpolation(
            np.array([place(row.config) for row in rows]),
            [row.config["targets"] for row in rows],
            np.array([[rung.eval_loss for rung in row.rungs] for row in rows]),
            np.array([float(row.peak_memory_bytes) for row in rows]),
            np.array([sum(rung.train_seconds for rung in row.rungs) for row in rows]),
        )

    def answer(self, config: Mapping[str, Any]) -> tuple[int, Row]:
        """The curve of a config, and the index of the recorded row nearest to it."""
        index = self.nearest(config)
        row = self.rows[index]
        if self.answers == "nearest" or row.failure or not self.interpolation.knows(config["targets"]):
            return index, row
        start = self._places[index], row.config["targets"]
        losses, memory, seconds = self.interpolation.move(start, (np.array(place(config)), config["targets"]))
        rungs = [_moved(rung, float(d), seconds) for rung, d in zip(row.rungs, losses, strict=True)]
        moved_bytes = round(row.peak_memory_bytes * memory)
        return index, replace(row, config=config, rungs=tuple(rungs), peak_memory_bytes=moved_bytes)

    def nearest(self, config: Mapping[str, Any]) -> int:
        """Index of the recorded row nearest to a config.

        Among the rows of the same target set, batch size and rank if there are such, else of the same target set
        and batch size, else of the same target set, else among all: the nearest by the logarithms of `place`, each
        in units of its range in the table. Learning rates run over a factor of 15 and alpha / rank over one of 16 in
        the default space, so both count about alike.
        """
        key = cell(config)
        candidates = next(found for n in (3, 2, 1, 0) if len(found := self._group(key[:n])))
        offsets = (self._places[candidates] - place(config)) / self._scale
        return int(candidates[np.argmin((offsets**2).sum(axis=1))])

    def _group(self, key: tuple[Any, ...]) -> NDArray[np.intp]:
        """Indices of the rows whose cell begins with ``key``."""
        if not self._groups:
            lists: dict[tuple[Any, ...], list[int]] = defaultdict(list)
            for index, row in enumerate(self.rows):
                for length in range(4):
                    lists[cell(row.config)[:length]].append(index)
            self._groups.update({group: np.array(found) for group, found in lists.items()})
        return self._groups.get(key, np.array([], dtype=np.intp))


def _moved(rung: Rung, loss: float, seconds: float) -> Rung:
    """A rung with all its losses moved alike, and its training's seconds scaled."""
    return replace(
        rung,
        eval_loss=rung.eval_loss + loss,
        train_seconds=rung.train_seconds * seconds,
        example_losses=tuple(each + loss for each in rung.example_losses),
    )
