"""How many parameters a Llama-family model has, and its LoRA adapters."""

from collections import Counter
from typing import NamedTuple

from search.errors import InputError
from trainables.settings import Architecture


class LinearShape(NamedTuple):
    """Features in and out of a linear module, and the number of its weights."""

    inputs: int
    outputs: int

    @property
    def weights(self) -> int:
        """Weights, without a bias."""
        return self.inputs * self.outputs


def linear_shapes(arch: Architecture) -> dict[str, LinearShape]:
    """The seven linear modules of a Llama layer, by leaf name."""
    hidden, width = arch.hidden_size, arch.intermediate_size
    attended, key_value = arch.num_heads * arch.head_dim, arch.num_kv_heads * arch.head_dim
    return {
        "q_proj": LinearShape(hidden, attended),
        "k_proj": LinearShape(hidden, key_value),
        "v_proj": LinearShape(hidden, key_value),
        "o_proj": LinearShape(attended, hidden),
        "gate_proj": LinearShape(hidden, width),
        "up_proj": LinearShape(hidden, width),
        "down_proj": LinearShape(width, hidden),
    }


def linear_weights(arch: Architecture) -> int:
    """Weights of the linear modules in all layers, the head not among them."""
    return arch.num_layers * sum(shape.weights for shape in linear_shapes(arch).values())


def count_parameters(arch: Architecture) -> int:
    """Parameters of the whole model; tied embeddings count once."""
    embeddings = arch.vocab_size * arch.hidden_size * (1 if arch.tie_word_embeddings else 2)
    return embeddings + linear_weights(arch) + (2 * arch.num_layers + 1) * arch.hidden_size


def model_tensors(arch: Architecture) -> Counter[int]:
    """How many tensors of how many elements the whole model has; tied embeddings count once."""
    tensors = Counter({arch.hidden_size: 2 * arch.num_layers + 1})
    tensors[arch.vocab_size * arch.hidden_size] += 1 if arch.tie_word_embeddings else 2
    for shape in linear_shapes(arch).values():
        tensors[shape.weights] += arch.num_layers
    return tensors


def adapter_tensors(
    arch: Architecture, target_modules: tuple[str, ...], rank: int, use_dora: bool
) -> Counter[int]:
    """How many tensors of how many elements the adapters have: A, B, and with DoRA a magnitude per output."""
    tensors: Counter[int] = Counter()
    shapes = linear_shapes(arch)
    for name in target_modules:
        sizes = (rank * shapes[name].inputs, rank * shapes[name].outputs)
        for size in (*sizes, shapes[name].outputs) if use_dora else sizes:
            tensors[size] += arch.num_layers
    return tensors


def check_targets(arch: Architecture, target_modules: tuple[str, ...]) -> None:
    """Raises InputError when a target is not a linear module of a Llama layer."""
    shapes = linear_shapes(arch)
    for name in target_modules:
        if name not in shapes:
            raise InputError(
                f"target module {name!r} is not a linear module of a Llama layer: {', '.join(shapes)}"
            )


def trainable_parameters(
    arch: Architecture, target_modules: tuple[str, ...], rank: int, use_dora: bool
) -> int:
    """Parameters of the adapters: r (i + o) per targeted module, and with DoRA a magnitude per output.

    Raises:
        InputError: a target is not a linear module of a Llama layer.
    """
    check_targets(arch, target_modules)
    tensors = adapter_tensors(arch, target_modules, rank, use_dora)
    return sum(size * count for size, count in tensors.items())
