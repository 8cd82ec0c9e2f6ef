"""The sweep's space in Ray Tune's words."""

from collections.abc import Mapping
from typing import Any


def tune_space(space: Mapping[str, Any]) -> dict[str, Any]:
    """A space as `SearchSpace.to_yaml` writes it: scalars, lists, ``{low, high, log}``."""
    from ray import tune

    found: dict[str, Any] = {}
    for name, values in space.items():
        if isinstance(values, list):
            found[name] = tune.choice(values)
        elif isinstance(values, dict):
            between = tune.loguniform if values.get("log") else tune.uniform
            found[name] = between(values["low"], values["high"])
        else:
            found[name] = values
    return found
