"""A base model in 4 or 8 bits: its linear modules become bitsandbytes', on CUDA and on a CPU alike.

Not through `Booster.enable_lora(..., quantize=True)`: a base model that is kept for the next trial must not be
quantised again. And not through ColossalAI's `quantize_model` (colossalai 0.5.0, `quantization/bnb.py`), which raises
without a CUDA device, after it has replaced the layers; takes the last child of the model for its head; and fills
every new layer with random numbers first, so that adapters depended on which trial came first. transformers' own
replacement does none of that, and is what a user gets who loads the model with a `BitsAndBytesConfig` for the adapter.
"""

import logging
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from trainables.settings import Precision


def quantize_base(
    model: nn.Module, precision: Precision, compute_dtype: torch.dtype, device: torch.device
) -> nn.Module:
    """The model on ``device`` with its linear modules quantised, but for the head and what is tied to it.

    "nf4" is 4-bit NormalFloat with double quantisation (QLoRA, arXiv 2305.14314), "int8" one scale per row and no
    outlier columns (LLM.int8(), arXiv 2208.07339, with threshold 0). Products are computed in ``compute_dtype``.
    Embeddings, norms, biases and experts that are one 3-D parameter (see `unquantized_experts`) keep their dtype. Weight
    by weight: a model on the CPU never lies on the device in 16 bits as a whole. When this raises, some layers have been
    replaced already: throw the model away.
    """
    from transformers import BitsAndBytesConfig
    from transformers.integrations.bitsandbytes import replace_with_bnb_linear
    from transformers.quantizers.base import HfQuantizer

    config = BitsAndBytesConfig(
        load_in_4bit=precision == "nf4",
        load_in_8bit=precision == "int8",
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute_dtype,
        llm_int8_threshold=0.0,
    )
    kept: Any = getattr(model, "_keep_in_fp32_modules", None)
    skipped = HfQuantizer.get_modules_to_not_convert(model, None, kept)  # type: ignore[arg-type]
    linears = {name: module for name, module in model.named_modules() if type(module) is nn.Linear}
    replace_with_bnb_linear(model, skipped, config)  # by modules without weights
    while linears:
        name, linear = linears.popitem()
        _fill(model.get_submodule(name), linear, device)
    experts = unquantized_experts(model)
    if experts:
        logging.getLogger(__name__).warning(
            "%d fused experts stay in 16 bits, first %s", len(experts), experts[0]
        )
    model.is_loaded_in_4bit, model.is_loaded_in_8bit = precision == "nf4", precision == "int8"  # for PEFT
    return model.to(device)


def _fill(module: Any, linear: nn.Linear, device: torch.device) -> None:
    """Give a replaced module the weight of the old one, quantised on the device."""
    if module is linear:
        return
    settings = vars(module.weight)
    module.weight = type(module.weight)(linear.weight.data, requires_grad=False, **settings).to(device)
    module.bias = linear.bias
    # On CPUs with AVX512-BF16 the first evaluation would repack the weights for a kernel that has no backward pass and
    # needs certain shapes: the next rung would train without the gradient that flows through the module.
    module.support_avx512bf16_for_cpu = False


def unquantized_experts(model: nn.Module) -> list[str]:
    """The names of a mixture's fused experts: 3-D parameters, no linear modules, so they are never quantised."""
    parameters = model.named_parameters()  # convolutions have three dimensions, too
    return [name for name, parameter in parameters if "experts" in name and parameter.dim() == 3]


def statistics(model: nn.Module) -> Iterator[Tensor]:
    """The tensors beside the weights that quantised modules keep: scales, and the tables of codes."""
    for module in model.modules():
        weight: Any = getattr(module, "weight", None)
        for state in (getattr(weight, "quant_state", None), getattr(module, "state", None), weight):
            yield from _tensors_of(state)


def _tensors_of(state: Any) -> Iterator[Tensor]:
    names = ("absmax", "code", "offset", "SCB", "CB")
    parts = (state, getattr(state, "state2", None))
    found = (vars(part).get(name) for part in parts if hasattr(part, "__dict__") for name in names)
    yield from (value for value in found if isinstance(value, Tensor))
