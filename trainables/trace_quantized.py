"""bitsandbytes' linear modules without data, for tracing: what they keep, and what they allocate in a pass.

On a CPU their own code runs, whose operators know fake tensors. On CUDA the kernels allocate inside one operator
(bitsandbytes 0.50, `backends/cuda/ops.py`), which is written out here. They are subclasses, so that PEFT wraps them in
its own quantised layers.
"""

from typing import Any

import bitsandbytes as bnb
import torch
import torch.nn.functional as F
from bitsandbytes.autograd._functions import MatMul8bitFp
from bitsandbytes.functional import QuantState, dequantize_4bit, int8_vectorwise_dequant
from torch import Tensor, nn

from trainables.layer_memory import Device
from trainables.settings import Precision

# One scale per 64 weights, themselves quantised to 8 bits with one fp32 number per 256 (QLoRA, arXiv 2305.14314,
# section 3); tables of codes of 16 and 256 numbers.
_BLOCK, _SCALES_PER_BLOCK, _CODES, _SCALE_CODES = 64, 256, 16, 256


class _Dequantizing:
    """PEFT knows bitsandbytes' weights by a class that no fake tensor has, and asks modules with a ``W_q`` themselves.

    (``peft/utils/integrations.py``, `dequantize_module_weight`, for DoRA.)
    """

    weight: Any

    @property
    def W_q(self) -> Tensor:  # noqa: N802
        """The packed weight."""
        return self.weight  # type: ignore[no-any-return]


class Linear4bit(_Dequantizing, bnb.nn.Linear4bit):
    """A linear module packed in 4 bits."""

    def __init__(self, linear: nn.Linear, device: Device) -> None:
        nn.Linear.__init__(self, linear.in_features, linear.out_features, bias=False, device="meta")
        count, dtype = linear.weight.numel(), linear.weight.dtype
        scales = -(-count // _BLOCK)
        nested = QuantState(
            torch.empty(-(-scales // _SCALES_PER_BLOCK)),
            code=torch.empty(_SCALE_CODES), blocksize=_SCALES_PER_BLOCK, dtype=torch.float32,
        )  # fmt: skip
        weight: Any = nn.Parameter(torch.empty(-(-count // 2), 1, dtype=torch.uint8), requires_grad=False)
        weight.compress_statistics, weight.quant_type = True, "nf4"
        weight.quant_state = QuantState(
            torch.empty(scales, dtype=torch.uint8), linear.weight.shape, torch.empty(_CODES), _BLOCK, "nf4",
            dtype, torch.empty(()), nested,
        )  # fmt: skip
        self.weight, self.bias, self.compute_dtype, self._pretended = weight, linear.bias, dtype, device

    def dequantize(self) -> Tensor:
        """The unpacked weight."""
        return dequantize_4bit(self.weight.data, self.weight.quant_state)  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        """The product with the unpacked weight."""
        if self._pretended == "cuda":
            return _Unpacked.apply(x, self.bias, self)  # type: ignore[no-any-return]
        return bnb.matmul_4bit(x, self.weight, self.weight.quant_state, bias=self.bias)  # type: ignore[no-any-return]


class _Unpacked(torch.autograd.Function):
    """What the product needs beyond 1536 tokens; for fewer a kernel may read the packed weight."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor | None, module: Linear4bit) -> Tensor:
        ctx.module = module
        return F.linear(x, module.dequantize(), bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        return torch.matmul(grad, ctx.module.dequantize()), None, None


class Linear8bitLt(_Dequantizing, bnb.nn.Linear8bitLt):
    """A linear module in 8 bits."""

    def __init__(self, linear: nn.Linear, device: Device) -> None:
        nn.Linear.__init__(self, linear.in_features, linear.out_features, bias=False, device="meta")
        self.index, self._pretended = None, device
        self.weight: Any = nn.Parameter(
            torch.empty(linear.weight.shape, dtype=torch.int8), requires_grad=False
        )
        self.weight.CB, self.weight.has_fp16_weights = None, False
        scales = torch.empty(linear.out_features)
        self.bias, self.state = linear.bias, bnb.MatmulLtState(CB=self.weight.data, SCB=scales)
        self.state.has_fp16_weights = False

    def dequantize(self) -> Tensor:
        """The weight in fp32."""
        return int8_vectorwise_dequant(self.weight.data, self.state.SCB)  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        """The product with the weight."""
        product = _Int8Product if self._pretended == "cuda" else MatMul8bitFp
        return product.apply(x, self.weight, None, self.bias, self.state)  # type: ignore[no-any-return]


class _Int8Product(MatMul8bitFp):
    """`MatMul8bitLt` on CUDA: quantises the input row by row; the product is int32 before it is rounded."""

    @staticmethod
    def forward(ctx: Any, A: Any, B: Any, out: Any = None, bias: Any = None, state: Any = None) -> Any:  # noqa: N803
        x, weight = A, B
        ctx.state, ctx.dtype_A, ctx.grad_shape, ctx.A, ctx.dtype_bias = state, x.dtype, x.shape, x, None
        tokens, outputs = x.numel() // x.shape[-1], weight.shape[0]
        half = x.to(torch.float16)
        quantised = torch.empty_like(half, dtype=torch.int8), torch.empty(tokens)
        del half
        exact = torch.empty(tokens, outputs, dtype=torch.int32)
        result = x.new_empty(*x.shape[:-1], outputs)
        del quantised, exact
        return result


def pack_linears(model: nn.Module, precision: Precision, device: Device) -> None:
    """Quantise the linear modules, but for the head and what is tied to it, as `trainables.quantization` does."""
    head = model.get_output_embeddings()  # type: ignore[operator]
    fake = Linear4bit if precision == "nf4" else Linear8bitLt
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.Linear and child is not head:
                setattr(module, name, fake(child, device))
    model.is_loaded_in_4bit, model.is_loaded_in_8bit = precision == "nf4", precision == "int8"
