"""A base model in 4 bits: ColossalAI's quantisation, which `Booster.enable_lora(..., quantize=True)` does, by itself.

By itself, since a base model that is kept for the next trial must not be quantised again, and because replacing the
layers draws random numbers: adapters created after it would depend on which trial came first.
"""

import torch
from torch import nn


def quantize_base(model: nn.Module) -> nn.Module:
    """The model's linear modules but for the head as 4-bit NormalFloat with double quantisation, on the CUDA device.

    Weight by weight: a model on the CPU never lies on the device in 16 bits as a whole. When this raises, some layers
    have been replaced already: throw the model away.

    Raises:
        RuntimeError: there is no CUDA device.
    """
    from colossalai.quantization import BnbQuantizationConfig, quantize_model

    # What `Booster.enable_lora` takes with quantize=True (colossalai 0.5.0, booster/booster.py).
    config = BnbQuantizationConfig(
        load_in_4bit=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
        bnb_4bit_use_double_quant=True,
        bnb_4bit_quant_type="nf4",
    )
    return quantize_model(model, config)
