"""The search space: what each dimension may be, and how a point of it becomes a trial config.

A dimension is written in YAML (and in `--set`) as a scalar (fixed), a list (choices) or a mapping
``{low, high, log, step}`` (a range). All names but ``alpha_ratio`` are fields of `TrialConfig`; ``alpha_ratio`` is
alpha / rank, which is searched instead of alpha because the scale of an adapter is alpha / rank.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from search.errors import InputError
from trainables.settings import TrialConfig

Value = int | float | str | bool
DIMENSION_NAMES = ("alpha_ratio", *TrialConfig.model_fields)
_RANGE_KEYS = {"low", "high", "log", "step"}


def _check_value(name: str, value: Any) -> Value:
    """``value`` as the type of its config field, or an InputError that says what is allowed."""
    field = "alpha" if name == "alpha_ratio" else name
    try:
        checked: Value = getattr(TrialConfig.model_validate({field: value}), field)
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise InputError(f"space.{name}: {value!r} is not allowed: {reason}") from error
    return checked


@dataclass(frozen=True)
class Choices:
    """A finite dimension; with a single value it is fixed."""

    name: str
    values: tuple[Value, ...]

    def suggest(self, trial: Any) -> Value:
        """A value from an Optuna trial (fixed dimensions never reach the study)."""
        if len(self.values) == 1:
            return self.values[0]
        choice: Value = trial.suggest_categorical(self.name, list(self.values))
        return choice

    def contains(self, value: Any) -> bool:
        """Whether the dimension admits ``value``."""
        return value in self.values

    def size(self) -> float:
        """How many values there are."""
        return len(self.values)

    def to_yaml(self) -> Any:
        """The way a person would write it."""
        return self.values[0] if len(self.values) == 1 else list(self.values)

    def describe(self) -> str:
        """One line for people."""
        return f"{self.values[0]} (fixed)" if len(self.values) == 1 else ", ".join(map(str, self.values))


@dataclass(frozen=True)
class Range:
    """A numeric interval, both ends included; ``log`` samples its logarithm evenly."""

    name: str
    low: float
    high: float
    log: bool = False
    step: float | None = None
    integer: bool = False

    def suggest(self, trial: Any) -> Value:
        """A value from an Optuna trial."""
        suggested: Value
        if self.integer:
            step = int(self.step or 1)
            suggested = trial.suggest_int(self.name, int(self.low), int(self.high), log=self.log, step=step)
        else:
            suggested = trial.suggest_float(self.name, self.low, self.high, log=self.log, step=self.step)
        return suggested

    def contains(self, value: Any) -> bool:
        """Whether the dimension admits ``value``."""
        return isinstance(value, int | float) and self.low <= value <= self.high

    def size(self) -> float:
        """How many values there are (infinite for a continuous range)."""
        step = self.step or (1 if self.integer else None)
        return math.inf if step is None else math.floor((self.high - self.low) / step) + 1

    def to_yaml(self) -> Any:
        """The way a person would write it."""
        low, high = (int(self.low), int(self.high)) if self.integer else (self.low, self.high)
        extra = ({"log": True} if self.log else {}) | ({"step": self.step} if self.step else {})
        return {"low": low, "high": high} | extra

    def describe(self) -> str:
        """One line for people."""
        return f"{self.low:g} to {self.high:g}{' (log scale)' if self.log else ''}"


Dimension = Choices | Range


def _parse_range(name: str, raw: Mapping[str, Any]) -> Range:
    if not {"low", "high"} <= set(raw) <= _RANGE_KEYS:
        raise InputError(f"space.{name}: a range takes low, high and optionally log and step, not {sorted(raw)}")
    low, high = _check_value(name, raw["low"]), _check_value(name, raw["high"])
    if isinstance(low, bool | str) or isinstance(high, bool | str):
        raise InputError(f"space.{name}: takes a list of choices, not a range")
    if low > high:
        raise InputError(f"space.{name}: low {low} is above high {high}")
    log, step = bool(raw.get("log", False)), raw.get("step")
    if log and low <= 0:
        raise InputError(f"space.{name}: a log scale needs low above 0, not {low}")
    if step is not None and (log or not isinstance(step, int | float) or step <= 0):
        raise InputError(f"space.{name}: step must be a positive number, and not with log, not {step!r}")
    return Range(name, low, high, log, step, isinstance(low, int) and isinstance(high, int))


def parse_dimension(name: str, raw: Any) -> Dimension:
    """A dimension from its YAML form.

    Raises:
        InputError: unknown name, empty list, or a value its config field refuses.
    """
    if name not in DIMENSION_NAMES:
        raise InputError(f"unknown search dimension {name!r}; there are: {', '.join(sorted(DIMENSION_NAMES))}")
    if isinstance(raw, Mapping):
        return _parse_range(name, raw)
    values = raw if isinstance(raw, list | tuple) else [raw]
    if not values:
        raise InputError(f"space.{name}: an empty list leaves nothing to choose")
    return Choices(name, tuple(dict.fromkeys(_check_value(name, value) for value in values)))


class SearchSpace:
    """All dimensions of a sweep, in a fixed order."""

    def __init__(self, raw: Mapping[str, Any]) -> None:
        if "alpha" in raw and "alpha_ratio" in raw:
            raise InputError("space: give alpha or alpha_ratio (alpha / rank), not both")
        self.dimensions = {name: parse_dimension(name, raw[name]) for name in sorted(raw)}

    def suggest(self, trial: Any) -> dict[str, Value]:
        """One point of the space from an Optuna trial."""
        return {name: dimension.suggest(trial) for name, dimension in self.dimensions.items()}

    def to_config(self, point: Mapping[str, Any]) -> TrialConfig:
        """The trial config at a point; dimensions that are not searched keep `TrialConfig`'s defaults.

        Raises:
            pydantic.ValidationError: the point combines settings that exclude each other.
        """
        values = dict(point)
        if "alpha_ratio" in values:
            rank = values.get("rank", TrialConfig.model_fields["rank"].default)
            values["alpha"] = values.pop("alpha_ratio") * rank
        return TrialConfig.model_validate(values)

    def restrict(self, point: Mapping[str, Any]) -> dict[str, Any]:
        """The part of ``point`` that lies in the space and is not fixed: a start for the sampler."""
        return {
            name: point[name]
            for name, dimension in self.dimensions.items()
            if name in point and dimension.size() > 1 and dimension.contains(point[name])
        }

    def size(self) -> float:
        """How many different configs there are (infinite when a dimension is continuous)."""
        return math.prod(dimension.size() for dimension in self.dimensions.values())

    def to_yaml(self) -> dict[str, Any]:
        """The space as a person would write it."""
        return {name: dimension.to_yaml() for name, dimension in self.dimensions.items()}

    def target_sets(self) -> tuple[str, ...]:
        """The names of the target sets that may come up."""
        targets = self.dimensions.get("targets")
        if isinstance(targets, Choices):
            return tuple(str(value) for value in targets.values)
        return (str(TrialConfig.model_fields["targets"].default),)
