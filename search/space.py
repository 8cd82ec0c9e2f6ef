"""The search space: what each dimension may be, and how a point of it becomes a trial config.

A dimension is written in YAML (and in `--set`) as a scalar (fixed), a list (choices) or a mapping
``{low, high, log, step}`` (a range). All names but ``alpha_ratio`` are fields of `TrialConfig`;
``alpha_ratio`` is alpha / rank, which is searched instead of alpha because that is the scale of an adapter.
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
STEP_TOLERANCE = 1e-9  # in steps: (0.3 - 0.0) / 0.1 is 2.9999999999999996


def _check_value(name: str, value: Any, section: str = "space") -> Value:
    """``value`` as the type of its config field, or an InputError that says what is allowed."""
    field = "alpha" if name == "alpha_ratio" else name
    try:
        checked: Value = getattr(TrialConfig.model_validate({field: value}), field)
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise InputError(f"{section}.{name}: {value!r} is not allowed: {reason}") from error
    if checked == math.inf:
        raise InputError(f"{section}.{name}: {value!r} is not allowed: Input should be a finite number")
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
        """Whether the dimension admits ``value``: between the ends and, where there are steps, on one."""
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not self.low <= value <= self.high:
            return False
        steps = (value - self.low) / self._step if self._step else 0.0
        return math.isclose(steps, round(steps), abs_tol=STEP_TOLERANCE)

    @property
    def _step(self) -> float | None:
        return self.step or (1 if self.integer else None)

    def size(self) -> float:
        """How many values there are (infinite for a continuous range)."""
        if self._step is None:
            return math.inf
        return math.floor((self.high - self.low) / self._step + STEP_TOLERANCE) + 1

    def to_yaml(self) -> Any:
        """The way a person would write it."""
        low, high = (int(self.low), int(self.high)) if self.integer else (self.low, self.high)
        extra = ({"log": True} if self.log else {}) | ({"step": self.step} if self.step else {})
        return {"low": low, "high": high} | extra

    def describe(self) -> str:
        """One line for people."""
        return f"{self.low:g} to {self.high:g}{' (log scale)' if self.log else ''}"


Dimension = Choices | Range


def _parse_range(name: str, raw: Mapping[str, Any]) -> Dimension:
    if not {"low", "high"} <= set(raw) <= _RANGE_KEYS:
        raise InputError(f"space.{name}: a range takes low, high and perhaps log and step, not {list(raw)}")
    low, high = _check_value(name, raw["low"]), _check_value(name, raw["high"])
    if isinstance(low, bool | str) or isinstance(high, bool | str):
        raise InputError(f"space.{name}: takes a list of choices, not a range")
    if low > high:
        raise InputError(f"space.{name}: low {low} is above high {high}")
    log, step = raw.get("log", False), raw.get("step")
    integer = isinstance(low, int) and isinstance(high, int)
    if not isinstance(log, bool):
        raise InputError(f"space.{name}: log is true or false, not {log!r}")
    if log and low <= 0:
        raise InputError(f"space.{name}: a log scale needs low above 0, not {low}")
    if step is not None and (log or not _is_step(step, integer)):
        kind = "whole number" if integer else "number"
        raise InputError(f"space.{name}: step must be a positive {kind}, and not with log, not {step!r}")
    if step is not None:
        high = _last_step(low, high, step)
    return Choices(name, (low,)) if low == high else Range(name, low, high, log, step, integer)


def _last_step(low: Any, high: Any, step: Any) -> Any:
    """The highest ``low`` + n ``step`` up to ``high`` (Optuna would take it too, with a warning)."""
    last = low + math.floor((high - low) / step + STEP_TOLERANCE) * step
    return high if math.isclose(last, high) else round(last, 12)


def _is_step(step: Any, integer: bool) -> bool:
    allowed = (int,) if integer else (int, float)
    return isinstance(step, allowed) and not isinstance(step, bool) and 0 < step < math.inf


def parse_dimension(name: str, raw: Any, section: str = "space") -> Dimension:
    """A dimension from its YAML form; ``section`` is where in the configuration it stands.

    Raises:
        InputError: unknown name, empty list, or a value its config field refuses.
    """
    if name not in DIMENSION_NAMES:
        names = ", ".join(sorted(DIMENSION_NAMES))
        raise InputError(f"unknown search dimension {name!r}; there are: {names}")
    if isinstance(raw, Mapping):
        return _parse_range(name, raw)
    values = raw if isinstance(raw, list | tuple) else [raw]
    if not values:
        raise InputError(f"{section}.{name}: an empty list leaves nothing to choose")
    return Choices(name, tuple(dict.fromkeys(_check_value(name, value, section) for value in values)))


class SearchSpace:
    """All dimensions of a sweep, in a fixed order."""

    def __init__(self, raw: Mapping[str, Any]) -> None:
        if "alpha" in raw and "alpha_ratio" in raw:
            raise InputError("space: give alpha or alpha_ratio (alpha / rank), not both")
        self.dimensions = {name: parse_dimension(name, raw[name]) for name in sorted(raw)}
        try:
            self.to_config(self._fixed())
        except ValidationError as error:
            raise InputError(f"space: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from error

    def _fixed(self) -> dict[str, Value]:
        choices = [d for d in self.dimensions.values() if isinstance(d, Choices) and d.size() == 1]
        return {dimension.name: dimension.values[0] for dimension in choices}

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
            values.setdefault("alpha", values.pop("alpha_ratio") * rank)
        return TrialConfig.model_validate(values)

    def config_at(self, params: Mapping[str, Any]) -> TrialConfig:
        """The trial config where only the searched dimensions are given, as a study keeps them."""
        return self.to_config({**self._fixed(), **params})

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
