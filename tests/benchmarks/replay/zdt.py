"""Test functions with known fronts in place of a table: ZDT1 to ZDT3 with learning curves and noise.

Zitzler, Deb and Thiele 2000, "Comparison of multiobjective evolutionary algorithms: empirical results". The first
objective is the memory, exact from the first rung; the second is the loss at the full resource. A curve comes down to it
by a power law whose pace differs between configs, so that early ranks mislead a little. Its examples are common to all
configs and differ far more from each other than configs do, as in real validation sets.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from analysis.pareto import front_indices, hypervolume
from tests.benchmarks.replay.curves import Row, Rung

# Five settings that may be anything between two ends; the first one is the functions' x1.
SPACE: dict[str, Any] = {
    "warmup_ratio": {"low": 0.0, "high": 0.9},
    "alpha_ratio": {"low": 0.25, "high": 4.0, "log": True},
    "learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
    "dropout": {"low": 0.0, "high": 0.9},
    "weight_decay": {"low": 0.0, "high": 1.0},
}
EXAMPLES, EXAMPLE_SPREAD, NOISE = 32, 0.9, 0.1
SECONDS_PER_EXAMPLE, EVAL_SECONDS = 0.35, 5.0
GIB = 2**30


def unit_point(config: Mapping[str, Any]) -> list[float]:
    """The config's place in the unit cube."""
    ratio = config["alpha_ratio"] if "alpha_ratio" in config else config["alpha"] / config["rank"]
    values = {**config, "alpha_ratio": ratio}
    point = []
    for name, dimension in SPACE.items():
        ends = dimension["low"], dimension["high"]
        low, high, value = (
            map(math.log, (*ends, values[name])) if "log" in dimension else (*ends, values[name])
        )
        point.append(min(1.0, max(0.0, (value - low) / (high - low))))
    return point


def tail(number: int, first: float, g: float) -> float:
    """The second objective of ZDT1, ZDT2 or ZDT3, given x1 and g."""
    share = first / g
    if number == 1:
        return g * (1 - math.sqrt(share))
    if number == 2:
        return g * (1 - share**2)
    return g * (1 - math.sqrt(share) - share * math.sin(10 * math.pi * first))


class Zdt:
    """What a simulator and `ours` need of a table, answered by a function (1, 2 or 3)."""

    size, rungs, base = "smollm2-135m", (16, 48, 144), None
    space = SPACE
    reference = (4.0, 2.0 * GIB)

    def __init__(self, number: int) -> None:
        self.number = number
        self._hard = np.random.default_rng(0).normal(0.0, EXAMPLE_SPREAD, EXAMPLES)

    def final(self, config: Mapping[str, Any]) -> tuple[float, float]:
        """``(loss, bytes)`` without noise; g runs from 1, on the front, to 4."""
        first, *rest = unit_point(config)
        g = 1 + 3 * sum(rest) / len(rest)
        return tail(self.number, first, g), (1 + first) * GIB

    @property
    def hypervolume(self) -> float:
        """Of the whole true front."""
        firsts = np.linspace(0, 1, 2001)
        points = [(tail(self.number, first, 1.0), (1 + first) * GIB) for first in firsts]
        return hypervolume([points[index] for index in front_indices(points)], self.reference)

    def answer(self, config: Mapping[str, Any]) -> tuple[int, Row]:
        """The curve of a config; the same config has the same noise."""
        loss, memory = self.final(config)
        point = unit_point(config)
        random = np.random.default_rng(np.array(point).view(np.uint64))
        pace = 0.4 + 0.3 * point[2]
        rungs = []
        for before, examples in zip((0, *self.rungs), self.rungs, strict=False):
            mean = loss + 2.0 * ((1 + examples / 8) ** -pace - (1 + self.rungs[-1] / 8) ** -pace)
            losses = mean + self._hard - self._hard.mean() + random.normal(0.0, NOISE, EXAMPLES)
            rungs.append(
                Rung(
                    examples_seen=examples,
                    eval_loss=float(losses.mean()),
                    eval_loss_stderr=float(losses.std(ddof=1) / EXAMPLES**0.5),
                    train_seconds=SECONDS_PER_EXAMPLE * (examples - before),
                    eval_seconds=EVAL_SECONDS,
                    example_losses=tuple(losses.tolist()),
                )
            )
        return 0, Row(dict(config), round(memory), 0.4, tuple(rungs))
