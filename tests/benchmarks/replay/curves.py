"""Recorded learning curves as they lie in a file: the format, and reading it.

The format is what `tests.benchmarks.record_curves` writes: JSON lines, plain or gzipped (``.gz``). Line 1 is the
header, of which ``rungs`` (examples, ascending) and ``size`` (a lorafront size, whose space is searched) are needed;
``space`` may give another space in the form of `sweep.yaml`, and ``base`` the untouched model's ``eval_loss``,
``eval_loss_stderr`` and ``example_losses``, which a sweep knows from its first trial. Every other line is one config with
``config`` (at least ``rank``, ``alpha``, ``targets``, ``learning_rate``, ``batch_size``), ``peak_memory_bytes``, and in
``rungs``, for every rung of the header, ``examples_seen``, ``eval_loss``, ``eval_loss_stderr``, ``train_seconds`` (since
the start) and ``eval_seconds``, and ``example_losses`` if they are known (the validation examples' parts of the loss);
``begin_seconds`` may stand beside. A line with ``failure`` (a text) may have fewer rungs and no
memory: its trial fails after them; with ``infeasible: true`` for want of memory. Other fields are ignored.
"""

import gzip
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from search.errors import InputError


@dataclass(frozen=True)
class Rung:
    """One point of a curve; both times are seconds, ``train_seconds`` of this rung alone."""

    examples_seen: int
    eval_loss: float
    eval_loss_stderr: float
    train_seconds: float
    eval_seconds: float
    example_losses: tuple[float, ...] = ()


@dataclass(frozen=True)
class Row:
    """One recorded config. ``cell`` is what is matched exactly, ``place`` what is matched by distance (logarithms)."""

    config: Mapping[str, Any]
    peak_memory_bytes: int
    begin_seconds: float
    rungs: tuple[Rung, ...]
    trainable_parameters: int = 0
    failure: str | None = None
    infeasible: bool = False

    @property
    def point(self) -> tuple[float, float]:
        """``(eval_loss at the full resource, peak_memory_bytes)``."""
        return self.rungs[-1].eval_loss, float(self.peak_memory_bytes)

    @property
    def seconds(self) -> float:
        """Worker seconds from start to the full resource."""
        return self.begin_seconds + sum(rung.train_seconds + rung.eval_seconds for rung in self.rungs)


def cell(config: Mapping[str, Any]) -> tuple[Any, ...]:
    """The discrete settings, the one that moves memory most first."""
    return config["targets"], config["batch_size"], config["rank"]


def place(config: Mapping[str, Any]) -> list[float]:
    """Logarithms of learning rate, alpha / rank, rank and batch size.

    >>> place({"learning_rate": 1.0, "alpha": 16.0, "rank": 16, "batch_size": 1})
    [0.0, 0.0, 4.0, 0.0]
    """
    ratio = config["alpha_ratio"] if "alpha_ratio" in config else config["alpha"] / config["rank"]
    logs = [math.log(config["learning_rate"]), math.log(ratio)]
    return [*logs, math.log2(config["rank"]), math.log2(config["batch_size"])]


def read_lines(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """Numbered JSON objects of a file. A cut-off last line (a recording still under way) is left out."""
    try:
        with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
            texts = file.read().split("\n")
        return [(number, json.loads(text)) for number, text in enumerate(texts[:-1], 1) if text.strip()]
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: not JSON lines: {error}") from error


def parse_row(line: dict[str, Any], rungs: list[int], where: str) -> Row:
    try:
        failure = line.get("failure")
        curve = _parse_rungs(line.get("rungs", []))
        seen = [rung.examples_seen for rung in curve]
        if seen != rungs and (failure is None or seen != rungs[: len(seen)]):
            raise ValueError(f"has rungs {seen}, the header {rungs}")
        if not all(math.isfinite(rung.eval_loss) for rung in curve):
            raise ValueError("a loss is not finite (say so in a field failure)")
        row = Row(
            config=line["config"],
            peak_memory_bytes=int(line.get("peak_memory_bytes", 0) if failure else line["peak_memory_bytes"]),
            begin_seconds=float(line.get("begin_seconds", 0.0)),
            rungs=curve,
            trainable_parameters=int(line.get("trainable_parameters", 0)),
            failure=failure,
            infeasible=bool(line.get("infeasible", False)),
        )
        cell(row.config), place(row.config)
        return row
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{where}: not a curve: {error}") from error


def _parse_rungs(raw: list[dict[str, Any]]) -> tuple[Rung, ...]:
    """Rungs with their own seconds, from lines that count since the start."""
    curve, before = [], 0.0
    for rung in raw:
        spent = float(rung["train_seconds"])
        curve.append(
            Rung(
                examples_seen=int(rung["examples_seen"]),
                eval_loss=float(rung["eval_loss"]),
                eval_loss_stderr=float(rung.get("eval_loss_stderr", 0.0)),
                train_seconds=spent - before,
                eval_seconds=float(rung.get("eval_seconds", 0.0)),
                example_losses=tuple(rung.get("example_losses", ())),
            )
        )
        before = spent
    return tuple(curve)
