"""Can a family be served at all? Tried on the model without its weights, before anything is started.

Every family that transformers has is taken, unless one of these fails: it is a decoder, its layers are found and have
linear weights (`trainables.model_shape` asks that), and PEFT's adapters on a target set are as many parameters as the set
says.
"""

from collections.abc import Iterable

from trainables.parameter_counts import trainable_parameters
from trainables.settings import (
    PLAIN_FAMILIES,
    Architecture,
    ExecutionSettings,
    TrialConfig,
    TrialSpec,
)

_LIBRARIES = ("torch", "transformers", "peft")
_RANK = 2  # any: the count is proportional to it


def check_served(arch: Architecture, sets: Iterable[tuple[str, ...]]) -> None:
    """Raises InputError, with the reason, unless the family can be trained with each of the target sets.

    Nothing is asked of plain Llamas. Of another family it takes some seconds; the answer is kept in the cache folder.
    """
    if arch.model_type in PLAIN_FAMILIES:
        return
    import numpy as np

    from trainables.kept_arrays import kept
    from trainables.model_cache import cache_root

    wanted = sorted(set(sets))
    kept(
        cache_root() / "served",
        f"{arch.model_dump_json()} {wanted}",
        _LIBRARIES,
        lambda: _try(arch, wanted),
        as_arrays=lambda _: {"served": np.array(True)},
        from_arrays=lambda arrays: bool(arrays["served"]),
    )


def _try(arch: Architecture, sets: list[tuple[str, ...]]) -> bool:
    from trainables.meta_model import cannot_serve

    for modules in sets:
        expected = trainable_parameters(arch, modules, _RANK, use_dora=False)
        found = _adapted(arch, modules)
        if found != expected:
            names = ", ".join(modules)
            raise cannot_serve(
                arch, f"PEFT adapts {found} parameters with {names}, where there should be {expected}"
            )
    return True


def _adapted(arch: Architecture, modules: tuple[str, ...]) -> int:
    """Parameters of the adapters that PEFT makes on the model without weights."""
    import torch
    from peft import get_peft_model

    from trainables.adapters import lora_config
    from trainables.meta_model import cannot_serve, empty_model

    spec = TrialSpec(
        trial_id="check",
        config=TrialConfig(rank=_RANK),
        execution=ExecutionSettings(),
        target_modules=modules,
        rungs=(1,),
        base_model_path="",
    )
    with torch.device("meta"):
        model = empty_model(arch, arch.num_layers, torch.bfloat16)
        try:
            adapted = get_peft_model(model, lora_config(spec, model))
        except (ValueError, TypeError, NotImplementedError, RuntimeError) as error:
            reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise cannot_serve(arch, f"PEFT cannot adapt {', '.join(modules)}: {reason}") from error
    return sum(parameter.numel() for parameter in adapted.parameters() if parameter.requires_grad)
