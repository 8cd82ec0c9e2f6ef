"""What a model's ``config.json`` already says against it: told in one line, before anything heavy is imported."""

from importlib.metadata import version
from typing import Any

from search.errors import InputError
from trainables.known_models import causal_classes, known_families
from trainables.settings import PLAIN_FAMILIES

DEQUANTISED = "mxfp4"
"""The one format of quantised weights that is taken: transformers turns it into 16 bits as it loads (gpt-oss)."""


def check_causal_config(name: str, config: dict[str, Any], *, may_lack_class: bool = False) -> None:
    """Raises InputError unless the model is one that transformers knows, causal, text only, and not quantised.

    Args:
        name: of the model, which begins the error's text.
        config: the content of its ``config.json``.
        may_lack_class: whether ``architectures``, which names the model's class, may be missing or empty.
    """
    _check_known(name, config)
    _check_text_only(name, config)
    _check_class(name, config, may_lack_class)
    method = quantisation(config)
    if method not in (None, DEQUANTISED):
        raise InputError(
            f"{name} is quantised ({method}) already: give the 16-bit model "
            "(execution.quantize=true quantises it to 4 bits for training)"
        )


def quantisation(config: dict[str, Any]) -> str | None:
    """How the weights are quantised (gptq, awq, fp8, mxfp4, ...); None for plain ones."""
    found = config.get("quantization_config") or config.get("compression_config")
    if not found:
        return None
    if not isinstance(found, dict):
        return "in an unknown way"
    # bitsandbytes' first files do not name it (transformers' AutoQuantizationConfig has the same rule).
    bits = found.get("load_in_4bit") or found.get("load_in_8bit")
    return str(found.get("quant_method") or ("bitsandbytes" if bits else "in an unknown way"))


def _check_known(name: str, config: dict[str, Any]) -> None:
    family = config.get("model_type")
    if family is None or family in PLAIN_FAMILIES or family in known_families():
        return
    installed = f"the installed transformers {version('transformers')}"
    if config.get("auto_map"):
        raise InputError(
            f"{name} (model_type {family!r}) needs its own code (trust_remote_code), which lorafront never runs, as "
            f"{installed} does not know its family: give a version of the model in transformers' own format"
        )
    written = config.get("transformers_version")
    newer = f", and it was written by transformers {written}" if written else ""
    raise InputError(
        f"{name} is of model_type {family!r}, which {installed} does not know{newer}: it may be newer than this "
        "lorafront, so upgrade lorafront or choose another model"
    )


def _check_text_only(name: str, config: dict[str, Any]) -> None:
    """Refuse models of several kinds of input, which have a configuration for each."""
    kinds = ("vision_config", "audio_config", "image_config", "speech_config", "thinker_config")
    if not any(config.get(kind) for kind in kinds):
        return
    kind = "a vision-language" if config.get("vision_config") else "a multimodal"
    text = config.get("text_config")
    inner = text.get("model_type") if isinstance(text, dict) else None
    alone = (
        f"save its text part (model_type {inner!r}) alone, as the README's 'Text part' shows, and give that"
        if inner in causal_classes() or inner in PLAIN_FAMILIES
        else "transformers has no language model for its text part alone"
    )
    raise InputError(
        f"{name} is {kind} model ({_classes_text(config)}), and lorafront trains text only: {alone}"
    )


def _check_class(name: str, config: dict[str, Any], may_lack_class: bool) -> None:
    family, names = config.get("model_type"), _classes(config)
    served = family is None or family in PLAIN_FAMILIES or family in causal_classes()
    own = causal_classes().get(str(family)) if family not in PLAIN_FAMILIES else None
    is_causal = any(each.endswith("ForCausalLM") or each == own for each in names)
    if not is_causal and not (may_lack_class and not names and served and family is not None):
        raise InputError(
            f"{name} is not a causal language model but {_classes_text(config)}; needs a *ForCausalLM"
        )
    if not served:
        raise InputError(f"{name}: transformers has no causal language model of model_type {family!r}")
    if config.get("is_encoder_decoder"):
        raise InputError(f"{name} is not a causal language model: it has an encoder, too")


def _classes(config: dict[str, Any]) -> list[str]:
    found = config.get("architectures")
    return [str(name) for name in found] if isinstance(found, list) else []


def _classes_text(config: dict[str, Any]) -> str:
    return ", ".join(_classes(config)) or f"model_type {config.get('model_type')!r} without architectures"
