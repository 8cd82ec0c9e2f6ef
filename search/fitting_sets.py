"""Which target sets of a space the model at hand can have; the others are left out with a note."""

from collections.abc import Callable
from typing import Any

from search.config import SweepConfig
from search.errors import InputError
from search.space import Choices
from trainables.model_shape import shape_of
from trainables.modules import TARGET_SETS, are_parameters, resolve_targets, sets_of
from trainables.settings import Architecture

ON_EXPERTS: dict[str, Any] = {"dropout": 0.0, "use_dora": False, "init": "default"}
"""The only values with which PEFT adapts fused experts (`ParamWrapper` in its ``lora/layer.py``)."""


def with_fitting_sets(
    config: SweepConfig, architecture: Architecture, say: Callable[[str], None]
) -> tuple[SweepConfig, dict[str, tuple[str, ...]]]:
    """The configuration without the target sets that this model cannot have, and the modules of the others.

    Each that is left out is said once. A set or module of the user's own that the model lacks is an error.

    Raises:
        InputError: a set or module that does not exist, or no set at all is left.
    """
    paths = [kind.path for kind in shape_of(architecture).linears]
    own, names = config.target_sets, config.search_space.target_sets()
    modules = {
        name: resolve_targets(name, paths, own)
        for name in names
        if name in own or name not in TARGET_SETS or name in sets_of(paths)
    }
    unfit = _reason_against_parameters(config)
    fitting = {name: found for name, found in modules.items() if not (unfit and are_parameters(found))}
    if not fitting:
        resolve_targets(names[0], paths, own)  # says which sets this model can have
        raise InputError(f"space.targets: none of {', '.join(names)} is left: {unfit}")
    for name in names:
        if name not in modules:
            say(
                f"target set {name} ({TARGET_SETS[name]}) is left out: this model has no such modules of its own"
            )
        elif name not in fitting:
            say(f"target set {name} is left out: {unfit}")
    if len(fitting) == len(names):
        return config, fitting
    return config.model_copy(update={"space": {**config.space, "targets": list(fitting)}}), fitting


def _reason_against_parameters(config: SweepConfig) -> str | None:
    """What of the space PEFT cannot do with parameters such as fused experts."""
    for name, plain in ON_EXPERTS.items():
        dimension = config.search_space.dimensions.get(name)
        values = (
            dimension.values if isinstance(dimension, Choices) else (dimension and (dimension.high,)) or ()
        )
        if any(value != plain for value in values):
            return f"PEFT adapts fused experts only with {name}={plain}, and the space has others"
    return None
