"""A model of any family without its weights: built by transformers itself from a configuration, in a second."""

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from search.errors import InputError
from trainables.settings import PLAIN_FAMILIES, Architecture

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


def model_config(arch: Architecture, layers: int) -> "PreTrainedConfig":
    """Transformers' configuration of the architecture with its first ``layers`` layers.

    Raises:
        InputError: transformers does not know the family, or refuses its numbers.
    """
    from transformers import AutoConfig

    if arch.model_type in PLAIN_FAMILIES:
        values = _plain_values(arch)
    else:
        values = {n: _shortened(_decoded(v), arch.num_layers, layers) for n, v in arch.config.items()}
    values = {name: value for name, value in values.items() if name not in _LEFT_OUT}
    names = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
    depth = next((name for name in names if name in values), "num_hidden_layers")
    try:
        return AutoConfig.for_model(arch.model_type, **{**values, depth: layers})  # type: ignore[no-any-return]
    except Exception as error:  # transformers validates in many ways
        reason = " ".join(str(error).split())
        raise InputError(f"model_type {arch.model_type!r}: transformers cannot build it: {reason}") from error


# They do not belong to the shape; token numbers outside a vocabulary that was made small would be complained about.
_LEFT_OUT = frozenset(
    ("model_type", "architectures", "transformers_version", "torch_dtype", "dtype", "quantization_config", "auto_map",
     "_name_or_path", "bos_token_id", "eos_token_id", "pad_token_id", "use_cache")
)  # fmt: skip


def _plain_values(arch: Architecture) -> dict[str, Any]:
    return {
        "hidden_size": arch.hidden_size,
        "intermediate_size": arch.intermediate_size,
        "num_attention_heads": arch.num_heads,
        "num_key_value_heads": arch.num_kv_heads,
        "head_dim": arch.head_dim,
        "vocab_size": arch.vocab_size,
        "tie_word_embeddings": arch.tie_word_embeddings,
        **arch.config,
    }


def _decoded(value: Any) -> Any:
    """JSON has no infinity: transformers 5 writes it as ``{"__float__": "Infinity"}``."""
    if isinstance(value, dict):
        if list(value) == ["__float__"]:
            return float(value["__float__"])
        return {name: _decoded(part) for name, part in value.items()}
    return [_decoded(part) for part in value] if isinstance(value, list) else value


def _shortened(value: Any, whole: int, layers: int) -> Any:
    """A list with one entry per layer, cut to the first ``layers``; anything else as it is."""
    return value[:layers] if isinstance(value, list) and len(value) == whole else value


def empty_model(arch: Architecture, layers: int, dtype: torch.dtype) -> "PreTrainedModel":
    """The architecture with ``layers`` layers, its weights uninitialised, in evaluation mode.

    Call it under a FakeTensorMode or on the meta device. Attention is what the model itself chooses, as when it is
    loaded: scaled-dot-product, or eager where a family has no other (Gemma 2, gpt-oss).

    Raises:
        InputError: as `model_config`, or the family has no causal language model.
    """
    from transformers import AutoModelForCausalLM
    from transformers.initialization import no_init_weights

    config = model_config(arch, layers)
    config.use_cache = False
    config.pad_token_id = None
    try:
        with no_init_weights():
            model = AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=False)
    except Exception as error:  # a family says in its own way what it cannot be built from
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"model_type {arch.model_type!r}: transformers cannot build its causal language model: {reason}"
        ) from error
    model.tie_weights()
    return model.eval()  # type: ignore[no-any-return]


def decoder_layers(model: nn.Module) -> list[nn.Module]:
    """The decoder layers: the list that is as long as the model's configuration says; empty where there is none.

    Lists within the members of another one, such as a layer's two attentions (LongCat), are not meant.
    """
    config: Any = getattr(model, "config", None)
    count = getattr(config, "num_hidden_layers", None)
    lists = (
        child
        for name, child in model.named_modules()
        if isinstance(child, nn.ModuleList)
        and len(child) == count
        and not any(map(str.isdigit, name.split(".")))
    )
    return list(next(lists, []))


def check_decoder(arch: Architecture, model: "PreTrainedModel") -> None:
    """Raises InputError unless the model is a decoder alone, whose layers are found."""
    config: Any = model.config
    if getattr(config, "is_encoder_decoder", False):
        raise cannot_serve(arch, "it has an encoder, too")
    # Encoders with a head for causal training: BERT and its kin, which have token types.
    if hasattr(config, "type_vocab_size") and not getattr(config, "is_decoder", False):
        raise cannot_serve(arch, "it is an encoder, in which every token sees those after it")
    if len(decoder_layers(model)) != arch.num_layers:
        raise cannot_serve(arch, f"no list of {arch.num_layers} decoder layers was found in it")


def cannot_serve(arch: Architecture, reason: str) -> InputError:
    """The error that says why a family is refused."""
    return InputError(f"models of model_type {arch.model_type!r} cannot be served: {reason}")
