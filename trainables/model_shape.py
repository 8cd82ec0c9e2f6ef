"""Which linear weights a model has, of which shapes, and how many parameters: known without loading it.

Of a plain Llama it follows from its numbers, without torch. Every other family is built by transformers on the meta
device (`trainables.meta_model`) and read; the answer is kept in the cache folder.
"""

import re
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from trainables.settings import PLAIN_FAMILIES, Architecture, Settings

if TYPE_CHECKING:
    from torch import nn

_LIBRARIES = ("torch", "transformers", "peft")


class LinearShape(NamedTuple):
    """Features in and out of a linear module, and the number of its weights."""

    inputs: int
    outputs: int

    @property
    def weights(self) -> int:
        """Weights, without a bias."""
        return self.inputs * self.outputs


class LinearKind(Settings):
    """A linear weight that ``count`` decoder layers have: a linear module, or the fused weights of ``experts`` experts.

    ``path`` is its name within a layer, such as ``self_attn.q_proj`` or ``mlp.experts.down_proj``. A name whose shape
    differs from layer to layer has several kinds.
    """

    path: str
    inputs: int
    outputs: int
    count: int
    experts: int = 0

    @property
    def shape(self) -> LinearShape:
        """Of one expert, where there are several."""
        return LinearShape(self.inputs, self.outputs)

    @property
    def copies(self) -> int:
        """How many matrices of this shape the whole model has."""
        return self.count * max(1, self.experts)


class ModelShape(Settings):
    """All that is asked of a model before it is loaded.

    ``tensors`` are pairs: how many elements, and how many tensors have so many. ``uniform`` says whether all decoder
    layers are alike, ``is_recurrent`` whether some mix tokens by a convolution or a running state; ``active_experts`` is
    how many experts a token goes through.
    """

    parameters: int
    tensors: tuple[tuple[int, int], ...]
    linears: tuple[LinearKind, ...]
    uniform: bool = True
    is_recurrent: bool = False
    active_experts: int = 1

    def linear_weights(self) -> int:
        """Weights of the linear modules in all layers, experts included, the head not."""
        return sum(kind.shape.weights * kind.copies for kind in self.linears)

    def active_weights(self) -> int:
        """Those of them that compute for one token: of the experts, the ones that it is sent to."""
        return sum(
            kind.shape.weights * kind.count * (min(self.active_experts, kind.experts) or 1)
            for kind in self.linears
        )


@lru_cache(maxsize=64)
def shape_of(arch: Architecture) -> ModelShape:
    """The shape of a model. Not a plain Llama: imports torch and transformers, unless it was asked for before.

    Raises:
        InputError: transformers cannot build such a model, or it cannot be served.
    """
    if arch.model_type in PLAIN_FAMILIES:
        return _plain_shape(arch)
    import numpy as np

    from trainables.kept_arrays import kept
    from trainables.model_cache import cache_root

    return kept(
        cache_root() / "shapes",
        arch.model_dump_json(),
        _LIBRARIES,
        lambda: _read_shape(arch),
        as_arrays=lambda shape: {"shape": np.array(shape.model_dump_json())},
        from_arrays=lambda arrays: ModelShape.model_validate_json(str(arrays["shape"])),
    )


def plain_linears(arch: Architecture) -> dict[str, LinearShape]:
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


def plain_biases(arch: Architecture) -> list[int]:
    """Elements of the biases of a plain layer's linear modules."""
    attention: tuple[str, ...] = (
        () if not arch.config.get("attention_bias") else ("q_proj", "k_proj", "v_proj", "o_proj")
    )
    if arch.model_type == "qwen2":
        attention = ("q_proj", "k_proj", "v_proj")
    mlp = ("gate_proj", "up_proj", "down_proj") if arch.config.get("mlp_bias") else ()
    shapes = plain_linears(arch)
    return [shapes[name].outputs for name in (*attention, *mlp)]


def _plain_shape(arch: Architecture) -> ModelShape:
    shapes, layers = plain_linears(arch), arch.num_layers
    tensors = Counter({arch.hidden_size: 2 * layers + 1})
    tensors[arch.vocab_size * arch.hidden_size] += 1 if arch.tie_word_embeddings else 2
    for size in (*(shape.weights for shape in shapes.values()), *plain_biases(arch)):
        tensors[size] += layers
    linears = [
        LinearKind(path=f"{_PARENTS[name]}.{name}", inputs=shape.inputs, outputs=shape.outputs, count=layers)
        for name, shape in shapes.items()
    ]
    parameters = sum(size * count for size, count in tensors.items())
    return ModelShape(parameters=parameters, tensors=tuple(tensors.items()), linears=tuple(linears))


_PARENTS = dict.fromkeys(("q_proj", "k_proj", "v_proj", "o_proj"), "self_attn") | dict.fromkeys(
    ("gate_proj", "up_proj", "down_proj"), "mlp"
)


def _read_shape(arch: Architecture) -> ModelShape:
    """Build the model on the meta device and look. Raises InputError: it cannot be served."""
    import torch
    from torch import nn

    from trainables.meta_model import cannot_serve, check_decoder, decoder_layers, empty_model

    with torch.device("meta"):
        model = empty_model(arch, arch.num_layers, torch.bfloat16)
    check_decoder(arch, model)
    layers = decoder_layers(model)
    kinds = Counter(kind for layer in layers for kind in linear_weights_of(layer))
    if not kinds:
        raise cannot_serve(arch, "its layers have no linear weights")
    tensors = Counter(parameter.numel() for parameter in model.parameters())
    return ModelShape(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        tensors=tuple(tensors.items()),
        linears=tuple(
            LinearKind(path=path, inputs=i, outputs=o, count=count, experts=experts)
            for (path, i, o, experts), count in kinds.items()
        ),
        uniform=len({_signature(layer) for layer in layers}) <= 1 and _is_even(model.config, len(layers)),
        is_recurrent=any(
            isinstance(m, nn.Conv1d) or _RECURRENT.search(type(m).__name__) for m in model.modules()
        ),
        active_experts=_active_experts(model.config),
    )


# Of transformers' modules, beside those that begin with a convolution.
_RECURRENT = re.compile("Mamba|DeltaNet|Recurrent|Lightning|LinearAttention|Rwkv|xLSTM|Conv")


def linear_weights_of(layer: "nn.Module") -> Iterator[tuple[str, int, int, int]]:
    """Path, inputs, outputs and experts (0: not fused) of every linear weight of a layer that an adapter can sit on."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    modules = dict(layer.named_modules())
    for path, module in modules.items():
        if isinstance(module, nn.Linear | Conv1D):
            rows, columns = module.weight.shape
            inputs, outputs = (columns, rows) if isinstance(module, nn.Linear) else (rows, columns)
            if outputs > 1 and not _is_choosing(path, module) and not _is_bypassed(path, modules):
                yield path, inputs, outputs, 0
        elif path.rpartition(".")[2] == "experts":
            yield from _fused_experts(path, module)


def _is_choosing(path: str, module: "nn.Module") -> bool:
    """Routers to experts, and indexers of the tokens to attend to, which have no gradient: they do not transform."""
    parts = path.split(".")
    return (
        any("router" in part or "indexer" in part for part in parts)
        or parts[-2:] == ["gate", "wg"]
        or "Router" in type(module).__name__
    )


def _is_bypassed(path: str, modules: "dict[str, nn.Module]") -> bool:
    """Whether the model takes the weight by itself, past the module and its adapter.

    Transformers' Mamba layers do so, for fused kernels, with all but the first one (PEFT refuses some of them for that
    reason: ``_check_lora_target_modules_mamba`` in its ``tuners/tuners_utils.py``), and Gemma 3n clips the weights in
    its AltUp.
    """
    parent, _, leaf = path.rpartition(".")
    mixer = modules[parent]
    is_state_space = hasattr(mixer, "A_log") and hasattr(mixer, "D")
    return (is_state_space and leaf != "in_proj") or "AltUp" in type(mixer).__name__


def _fused_experts(path: str, module: "nn.Module") -> Iterator[tuple[str, int, int, int]]:
    for name, parameter in module.named_parameters(recurse=False):
        if parameter.dim() == 3:
            experts, rows, columns = parameter.shape
            is_transposed = getattr(module, "is_transposed", False)  # transformers' integrations/moe.py
            yield f"{path}.{name}", *((rows, columns) if is_transposed else (columns, rows)), experts


def _signature(layer: "nn.Module") -> str:
    parts = [f"{name} {type(module).__name__}" for name, module in layer.named_modules()]
    return "; ".join(parts + [f"{name} {tuple(p.shape)}" for name, p in layer.named_parameters()])


def _is_even(config: Any, layers: int) -> bool:
    """Whether no list with an entry per layer (kinds of attention, rotary or not) differs from layer to layer."""
    values = config.to_dict().values()
    lists = (value for value in values if isinstance(value, list | tuple) and len(value) == layers)
    return all(all(entry == value[0] for entry in value) for value in lists)


def _active_experts(config: Any) -> int:
    names = ("num_experts_per_tok", "moe_top_k", "top_k", "num_experts_per_token")
    return next((int(v) for name in names if isinstance(v := getattr(config, name, None), int) and v > 0), 1)
