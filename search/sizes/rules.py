"""What the rules for a profile's settings are made of: settings by dotted names, and round numbers."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

SECTIONS = ("data", "execution", "baseline", "space", "recommended")
"""The parts of a profile whose settings have names with a dot, such as ``space.rank``."""

BILLION = 10**9


class Derived(NamedTuple):
    """A setting by its dotted name, as ``--set`` takes it, and the rule's reason."""

    name: str
    value: Any
    reason: str


class Rules:
    """The settings decided so far: the file's own, then those of the rules where the file says nothing."""

    def __init__(self, content: Mapping[str, Any]) -> None:
        self.derived: list[Derived] = []
        self._values = flatten(content)

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def add(self, name: str, value: Any, reason: str) -> None:
        """Decide a setting by rule, unless the file has it."""
        if name not in self._values:
            self._values[name] = value
            self.derived.append(Derived(name, value, reason))


def flatten(content: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by their dotted names.

    >>> flatten({"trials": 3, "space": {"rank": [4, 8]}})
    {'trials': 3, 'space.rank': [4, 8]}
    """
    flat: dict[str, Any] = {}
    for name, value in content.items():
        if name in SECTIONS and isinstance(value, Mapping):
            flat |= {f"{name}.{key}": inner for key, inner in value.items()}
        else:
            flat[name] = value
    return flat


def nested(settings: list[Derived]) -> dict[str, Any]:
    """The other way round: sections of settings."""
    result: dict[str, Any] = {}
    for name, value, _ in settings:
        section, dot, key = name.partition(".")
        if dot:
            result.setdefault(section, {})[key] = value
        else:
            result[name] = value
    return result


def learning_rate_rule(hidden_size: int) -> float:
    """A good first learning rate of LoRA with alpha = 32, two digits: tinker-cookbook's rule for Llama.

    >>> learning_rate_rule(4096)
    0.00029
    """
    return float(f"{5e-4 * (2000 / hidden_size) ** 0.781:.1e}")


def nearest(value: float, digits: tuple[float, ...]) -> float:
    """The round number nearest to ``value`` by its ratio; its first digits are one of ``digits``.

    >>> nearest(7.2e-5, (1, 2, 3, 5))
    0.0001
    """
    power = 10.0 ** math.floor(math.log10(value))
    numbers = [digit * power for digit in (*digits, 10 * digits[0])]
    return float(f"{min(numbers, key=lambda number: abs(math.log(number / value))):.2g}")
