"""PEFT's LoRA layers with their forward and backward passes fused: the same arithmetic in fewer, better shaped steps.

PEFT 0.21 (`tuners/lora/layer.py`, `Linear.forward`) scales, adds and rounds the adapter's fp32 output in three passes
over new tensors, and autograd multiplies thin matrices in layouts that a CPU's fp32 product is three to seven times
slower with. Here the output is added to the base layer's in place, and products keep the thin side contiguous. What
is computed in which precision, and what is kept for backward (the input in fp32, and its product with A), is PEFT's,
so losses agree with PEFT's up to the order of summation, and so does the memory.
"""

from typing import Any

import torch
from peft.tuners.lora import Linear
from torch import Tensor, nn


class AddLora(torch.autograd.Function):
    """``output + scale x A^T B^T`` in place, with x ``[..., i]``, output ``[..., o]``, A ``[r, i]``, B ``[o, r]``."""

    @staticmethod
    def forward(ctx: Any, output: Tensor, x: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
        """Returns ``output``."""
        entering = x.reshape(-1, x.shape[-1]).to(a.dtype)
        inner = torch.mm(a, entering.t()).t()
        flat = output.view(-1, output.shape[-1])
        flat.copy_(flat.to(a.dtype).addmm_(inner, b.t(), alpha=scale))  # rounded once, as PEFT does
        ctx.save_for_backward(entering, inner, a, b)
        ctx.scale, ctx.input_like = scale, (x.shape, x.dtype)
        ctx.mark_dirty(output)
        return output

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, Tensor, Tensor, None]:  # type: ignore[override]
        """Gradients of the base layer's output, x, A and B."""
        entering, inner, a, b = ctx.saved_tensors
        leaving = grad.reshape(-1, grad.shape[-1]).to(a.dtype)
        grad_b = torch.mm(inner.t(), leaving).t().mul_(ctx.scale)
        grad_inner = torch.mm(leaving, b.t().contiguous().t()).mul_(ctx.scale)
        del leaving
        grad_a = torch.mm(grad_inner.t(), entering)
        if not ctx.needs_input_grad[1]:  # the first adapter's input is the frozen embeddings'
            return grad, None, grad_a, grad_b, None
        shape, dtype = ctx.input_like
        return grad, torch.mm(grad_inner, a).to(dtype).view(shape), grad_a, grad_b, None


class FusedLinear(Linear):
    """A PEFT LoRA layer whose forward and backward are `AddLora`, except while it is merged or disabled."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The base layer's output with the adapter's added."""
        if self.disable_adapters or self.merged or args or kwargs:
            return super().forward(x, *args, **kwargs)
        (name,) = self.active_adapters
        a, b = self.lora_A[name].weight, self.lora_B[name].weight
        return AddLora.apply(self.base_layer(x), x, a, b, self.scaling[name])  # type: ignore[no-any-return]


def fuse_adapters(model: nn.Module) -> None:
    """Let the LoRA layers of a PEFT model take the fused pass where it does what PEFT's does.

    That is: one plain LoRA adapter in fp32, without dropout or DoRA, on a half-precision `nn.Linear`. (The layers
    change their class, since a replaced method would tie each into a cycle that only the garbage collector frees.)
    """
    for layer in model.modules():
        if type(layer) is Linear and _is_plain(layer):
            layer.__class__ = FusedLinear


def _is_plain(layer: Any) -> bool:
    names = layer.active_adapters
    if len(names) != 1 or type(layer.base_layer) is not nn.Linear:
        return False
    (name,) = names
    plain = isinstance(layer.lora_dropout[name], nn.Identity) and not layer.use_dora[name]
    half = layer.base_layer.weight.dtype in (torch.bfloat16, torch.float16)
    return plain and half and layer.lora_A[name].weight.dtype == torch.float32
