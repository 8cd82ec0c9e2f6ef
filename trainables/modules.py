"""Which linear modules a model has, and which of them a target set means.

LoRA's target modules are leaf names (``q_proj``): one name stands for that module in every decoder layer.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from search.errors import InputError
from trainables.model_folder import safetensors_header, weight_files

LLAMA_MODULES = ("down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj")
"""What `linear_modules` finds in any Llama, for use when no weights are at hand."""

TARGET_SETS: dict[str, tuple[str, ...]] = {
    "attention-qv": ("q_proj", "v_proj"),  # the choice of the LoRA paper, arXiv 2106.09685, section 4.2
    "attention-qkv": ("q_proj", "k_proj", "v_proj"),
    "attention": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "mlp": ("gate_proj", "up_proj", "down_proj"),
    "all-linear": LLAMA_MODULES,  # means every module of the model at hand, whatever its names
}

# ``model.layers.7.self_attn.q_proj.weight``; some families number their layers below ``h``.
_LAYER_WEIGHT = re.compile(r"(?:^|\.)(?:layers|h)\.\d+\.(?:.+\.)?(\w+)\.weight$")


def linear_modules(folder: Path) -> tuple[str, ...]:
    """Leaf names of the linear modules inside the decoder layers of the model in ``folder``, sorted.

    Read from the safetensors headers: inside a layer every matrix is a linear module's weight, while norms
    are vectors and the embedding and the head lie outside. So this costs milliseconds and no torch.

    Raises:
        InputError: the weights are missing or corrupt, or hold no such module.
    """
    names = {
        match[1]
        for file in weight_files(folder)
        for key, tensor in safetensors_header(file).items()
        if len(tensor["shape"]) == 2 and (match := _LAYER_WEIGHT.search(key))
    }
    if not names:
        raise InputError(f"base model {folder} has no linear modules in numbered layers, so nothing to adapt")
    return tuple(sorted(names))


def resolve_targets(
    name: str, available: Sequence[str] = LLAMA_MODULES, user_sets: Mapping[str, Sequence[str]] | None = None
) -> tuple[str, ...]:
    """The modules that a target set means in a model with the linear modules ``available``, in their order.

    Args:
        name: a set of ``user_sets`` or `TARGET_SETS` (the user's comes first), or modules written
            ``q_proj+v_proj`` or ``q_proj,v_proj``.
        available: what `linear_modules` found.
        user_sets: further sets by name.

    Raises:
        InputError: no such set or module; the text lists those there are.

    >>> resolve_targets("v_proj+q_proj")
    ('q_proj', 'v_proj')
    """
    sets = {**TARGET_SETS, "all-linear": tuple(available), **(user_sets or {})}
    wanted = set(sets[name]) if name in sets else {part for part in re.split(r"[+,\s]+", name) if part}
    lacking = sorted(wanted - set(available))
    if wanted and not lacking:
        return tuple(module for module in dict.fromkeys(available) if module in wanted)
    if name in sets:
        problem = f"needs {', '.join(lacking)}, which this model lacks" if wanted else "is empty"
    else:
        problem = f"is no set, and this model has no module {', '.join(lacking)}" if lacking else "is blank"
    fitting = [known for known, modules in sets.items() if modules and set(modules) <= set(available)]
    choices = f"sets that fit it: {', '.join(fitting)}; modules: {', '.join(available)}"
    raise InputError(f"target set {name!r} {problem}; {choices}")
