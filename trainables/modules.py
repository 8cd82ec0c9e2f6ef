"""Target sets by their meaning: which of a model's linear weights are query, MLP, experts, and what a set then names.

A model's linear weights come as paths within a decoder layer (``self_attn.q_proj``, see `trainables.model_shape`). The
names of target modules are the ends of these paths: as many of the last parts as no other path ends in.
One name stands for that weight in every layer that has it.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from search.errors import InputError

LLAMA_PATHS = (
    "mlp.down_proj",
    "mlp.gate_proj",
    "self_attn.k_proj",
    "self_attn.o_proj",
    "self_attn.q_proj",
    "mlp.up_proj",
    "self_attn.v_proj",
)
"""The linear modules of any Llama's layer, in the order of their names."""

TARGET_SETS = {
    "attention-qv": "query and value",  # the choice of the LoRA paper, arXiv 2106.09685, section 4.2
    "attention-qkv": "query, key and value",
    "attention": "query, key, value and output",
    "mlp": "the MLP that every token goes through, shared experts included",
    "experts": "the experts that tokens are sent to",
    "all-linear": "every linear weight of the layers, experts included, routers not",
}
"""The sets that have names, in words. What a set means in a model is `sets_of`."""

# What an attention's modules compute, by the last part of their names; multi-head latent attention has a pair for each.
_ATTENTION = (
    (r"w?q(uery)?(_[ab])?(_lin)?(_proj)?", "q"),
    (r"w?k(ey)?(_lin)?(_proj)?", "k"),
    (r"w?v(alue)?(_lin)?(_proj)?", "v"),
    (r"kv(_[ab])?(_proj)?(_with_mqa)?", "kv"),
    (r"w?qkv(_proj)?|query_key_value|c_attn", "qkv"),
    (r"(o|out|c)(_[ab])?_proj|output_proj|w?o|dense|out_lin", "o"),
)
_MLP = re.compile(r"mlp|feed_?forward|ffn?|shared_(mlp|experts?)|block_sparse_moe")
_MLP_LEAVES = re.compile(r"fc_?\w+|(gate|up|down|gate_up)_proj")


def names_of(paths: Iterable[str]) -> tuple[str, ...]:
    """The name of every path: its shortest end that no other path ends in; the experts' begin with ``experts``.

    Beside fused experts PEFT takes a module's name that ends as theirs once did for theirs (`_convert_peft_config_moe` in
    its ``utils/transformers_weight_conversion.py``): such a module is named as the parameter that its weight is.

    >>> names_of(["self_attn.out_proj", "conv.out_proj", "conv.in_proj"])
    ('self_attn.out_proj', 'conv.out_proj', 'in_proj')
    >>> names_of(["mlp.experts.down_proj", "mlp.shared_expert.down_proj"])
    ('experts.down_proj', 'shared_expert.down_proj.weight')
    """
    paths = list(paths)
    ends = Counter(end for path in dict.fromkeys(paths) for end in _ends(path))
    beside_experts = any(map(_is_experts, paths))
    return tuple(_name(path, ends, beside_experts) for path in paths)


_EXPERTS_OLD_NAMES = re.compile(r"(gate|up|down)_proj|w[123]|gate")


def are_parameters(names: Iterable[str]) -> bool:
    """Whether some of the names are parameters, which PEFT adapts by their whole product, not modules."""
    return any("experts" in name.split(".")[:-1] or name.endswith(".weight") for name in names)


def _ends(path: str) -> list[str]:
    """The ends of a path, shortest first."""
    parts = path.split(".")
    return [".".join(parts[start:]) for start in reversed(range(len(parts)))]


def _name(path: str, ends: Counter[str], beside_experts: bool) -> str:
    is_experts, leaf = _is_experts(path), _ends(path)[0]
    is_taken = beside_experts and not is_experts and _EXPERTS_OLD_NAMES.fullmatch(leaf) is not None
    fit = [end for end in _ends(path) if not is_experts or "experts" in end.split(".")]
    fit = fit[1:] if is_taken and len(fit) > 1 else fit
    name = next((end for end in fit if ends[end] == 1), path)  # a path may itself be the end of another
    return f"{name}.weight" if is_taken else name


def _is_experts(path: str) -> bool:
    return "experts" in path.split(".")[:-1]


def roles_of(path: str) -> str:
    """What a weight is: some of the letters q, k, v, o in attention, else ``mlp``, ``experts`` or ``other``.

    Linear attention, convolutions and state spaces are ``other``.

    >>> [roles_of(path) for path in ("self_attn.qkv_proj", "mlp.gate_up_proj", "linear_attn.out_proj")]
    ['qkv', 'mlp', 'other']
    """
    *parents, leaf = path.split(".")
    parent = ".".join(parents)
    if _is_experts(path):
        return "experts"
    if "linear_attn" in parent:
        return "other"
    if re.search(r"attn|attention|mixer|temporal_block", parent):
        found = next(
            (letters for pattern, letters in _ATTENTION if re.fullmatch(pattern, leaf.lower())), None
        )
        # A state space calls its projections in and out, too, but has no query.
        if found is not None and not (parent.endswith("mixer") and leaf == "out_proj"):
            return found
        if "mixer" not in parent:  # a gate on what attention gives
            return "other"
    is_mlp = any(_MLP.fullmatch(part) for part in parents) or _MLP_LEAVES.fullmatch(leaf)
    return "mlp" if is_mlp and leaf != "gate" and not leaf.endswith("expert_gate") else "other"


def sets_of(paths: Sequence[str] = LLAMA_PATHS) -> dict[str, tuple[str, ...]]:
    """The named sets that a model with these weights can have, each with its names, sorted.

    A set is there if the model has all that it means, and as modules of its own: one fused module for query, key and
    value leaves no ``attention-qv``.
    """
    roles: dict[str, str] = {}
    for name, role in zip(names_of(paths), map(roles_of, paths), strict=True):
        roles[name] = role if roles.get(name, role) == role else "other"
    sets = {}
    for name, letters in (("attention-qv", "qv"), ("attention-qkv", "qkv"), ("attention", "qkvo")):
        within = sorted(n for n, role in roles.items() if role not in _WORDS and set(role) <= set(letters))
        if set().union(*(roles[n] for n in within)) == set(letters):
            sets[name] = tuple(within)
    for name in ("mlp", "experts"):
        if members := sorted(n for n, role in roles.items() if role == name):
            sets[name] = tuple(members)
    return {**sets, "all-linear": tuple(sorted(roles))} if roles else sets


_WORDS = ("mlp", "experts", "other")


def resolve_targets(
    name: str, paths: Sequence[str] = LLAMA_PATHS, user_sets: Mapping[str, Sequence[str]] | None = None
) -> tuple[str, ...]:
    """The names that a target set means in a model with the linear weights ``paths``, sorted.

    Args:
        name: a set of ``user_sets`` or `TARGET_SETS` (the user's comes first), or sets and modules written
            ``q_proj+v_proj`` or ``attention,experts``.
        paths: the model's linear weights.
        user_sets: further sets by name, of modules.

    Raises:
        InputError: no such set or module, or the model cannot have it; the text lists those there are.

    >>> resolve_targets("v_proj+q_proj")
    ('q_proj', 'v_proj')
    """
    sets, users, available = sets_of(paths), dict(user_sets or {}), names_of(paths)
    parts = list(users.pop(name)) if name in users else [p for p in re.split(r"[+,\s]+", name) if p]
    found: set[str] = set()
    problem = "" if parts else ("is empty" if name in (user_sets or {}) else "is blank")
    for part in parts:
        wanted = sets.get(part) if part in TARGET_SETS else _named(part, available)
        if not wanted:
            problem = problem or _lack(name, part, name in (user_sets or {}))
        found |= set(wanted or ())
    if not problem:
        return tuple(sorted(found))
    own = [n for n, members in users.items() if members and all(_named(m, available) for m in members)]
    choices = f"sets that fit it: {', '.join((*sets, *own))}; modules: {', '.join(sorted(set(available)))}"
    raise InputError(f"target set {name!r} {problem}; {choices}")


def _named(part: str, available: Iterable[str]) -> list[str]:
    """The names that ``part`` is the end of: ``out_proj`` is ``conv.out_proj`` as well as ``self_attn.out_proj``."""
    return [
        name
        for name in available
        if f".{name}".removesuffix(".weight").endswith(f".{part.removesuffix('.weight')}")
    ]


def _lack(name: str, part: str, is_users: bool) -> str:
    if part in TARGET_SETS:
        return f"({TARGET_SETS[part]}) is something that this model does not have as modules of its own"
    if is_users:
        return f"needs {part}, which this model lacks"
    return f"is no set, and this model has no module {part}"
