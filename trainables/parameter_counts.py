"""How many parameters a model has, and its LoRA adapters."""

from collections import Counter

from search.errors import InputError
from trainables.model_shape import LinearKind, LinearShape, plain_linears, shape_of
from trainables.modules import names_of
from trainables.settings import PLAIN_FAMILIES, Architecture

__all__ = ["LinearShape"]


def linear_kinds(arch: Architecture) -> dict[str, list[LinearKind]]:
    """Every linear weight of the model's layers, by the name that a target module has."""
    linears = shape_of(arch).linears
    kinds: dict[str, list[LinearKind]] = {}
    for kind, name in zip(linears, names_of(kind.path for kind in linears), strict=True):
        kinds.setdefault(name, []).append(kind)
    return kinds


def linear_shapes(arch: Architecture) -> dict[str, LinearShape]:
    """The linear weights of a layer by name; where layers differ, the largest."""
    if arch.model_type in PLAIN_FAMILIES:
        return plain_linears(arch)
    return {
        name: max((kind.shape for kind in kinds), key=lambda shape: shape.weights)
        for name, kinds in linear_kinds(arch).items()
    }


def linear_weights(arch: Architecture) -> int:
    """Weights of the linear modules in all layers, experts included, the head not among them."""
    return shape_of(arch).linear_weights()


def count_parameters(arch: Architecture) -> int:
    """Parameters of the whole model; tied embeddings count once."""
    return shape_of(arch).parameters


def model_tensors(arch: Architecture) -> Counter[int]:
    """How many tensors of how many elements the whole model has; tied embeddings count once."""
    return Counter(dict(shape_of(arch).tensors))


def adapter_tensors(
    arch: Architecture, target_modules: tuple[str, ...], rank: int, use_dora: bool
) -> Counter[int]:
    """How many tensors of how many elements the adapters have: A, B, and with DoRA a magnitude per output.

    Of fused experts PEFT holds the A of all in one tensor, and the B.
    """
    tensors: Counter[int] = Counter()
    kinds = linear_kinds(arch)
    for kind in (kind for name in target_modules for kind in kinds[name]):
        together = rank * max(1, kind.experts)
        sizes = (together * kind.inputs, together * kind.outputs)
        for size in (*sizes, kind.outputs) if use_dora else sizes:
            tensors[size] += kind.count
    return tensors


def check_targets(arch: Architecture, target_modules: tuple[str, ...]) -> None:
    """Raises InputError when a target is not a linear module of a layer of the model."""
    shapes = linear_shapes(arch)
    for name in target_modules:
        if name not in shapes:
            raise InputError(
                f"target module {name!r} is not a linear module of a layer of this {arch.model_type}: "
                f"{', '.join(sorted(shapes))}"
            )


def trainable_parameters(
    arch: Architecture, target_modules: tuple[str, ...], rank: int, use_dora: bool
) -> int:
    """Parameters of the adapters: r (i + o) per targeted weight, and with DoRA a magnitude per output.

    Raises:
        InputError: a target is not a linear module of a layer of the model.
    """
    check_targets(arch, target_modules)
    tensors = adapter_tensors(arch, target_modules, rank, use_dora)
    return sum(size * count for size, count in tensors.items())
