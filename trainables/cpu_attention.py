"""Causal self-attention for short sequences on a CPU, in fewer and larger matrix products than PyTorch's kernel.

PyTorch 2.5's flash kernel for CPUs goes backward through small fp32 blocks and leaves a CPU's bf16 units idle: at
4 x 128 tokens and 9 heads it needs 15.1 ms there and back where this needs 7.1 (one core with AVX512-BF16). For
backward it keeps query, key, value and output, as that kernel does, but key and value repeated for grouped queries, which
transformers 5 no longer does for PyTorch's kernel, and not the fp32 log-sum-exp per head and token. On CUDA, and for long
sequences, PyTorch's kernel stays.
"""

from typing import Any

import torch
from torch import Tensor

from trainables.settings import LONGEST_SHORT_ATTENTION


class ShortCausalAttention(torch.autograd.Function):
    """softmax(scale Q K^T + causal mask) V, with Q, K, V as ``[B, H, T, D]``.

    Probabilities are computed again in backward, and the sum that the softmax's gradient needs is taken from the
    output (FlashAttention, arXiv 2205.14135, appendix B.2, without its tiling).
    """

    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu", cast_inputs=torch.bfloat16)  # acts under autocast only
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Attention's output, ``[B, H, T, D]``."""
        output = torch.matmul(_probabilities(query, key, scale), value)
        ctx.save_for_backward(query, key, value, output)
        ctx.scale = scale
        return output

    @staticmethod
    @torch.amp.custom_bwd(device_type="cpu")
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:  # type: ignore[override]
        """Gradients of query, key and value."""
        query, key, value, output = ctx.saved_tensors
        probabilities = _probabilities(query, key, ctx.scale)
        grad_value = torch.matmul(probabilities.transpose(-2, -1), grad_output)
        through_softmax = (grad_output.float() * output.float()).sum(-1, keepdim=True)
        grad_scores = torch.matmul(grad_output, value.transpose(-2, -1)).float().sub_(through_softmax)
        grad_scores = grad_scores.mul_(probabilities).mul_(ctx.scale).to(query.dtype)
        return (
            torch.matmul(grad_scores, key),
            torch.matmul(grad_scores.transpose(-2, -1), query),
            grad_value,
            None,
        )


def _probabilities(query: Tensor, key: Tensor, scale: float) -> Tensor:
    """Softmax of scaled scores, zero above the diagonal, ``[B, H, T, T]``; the softmax itself runs in fp32."""
    future = torch.full((query.shape[-2], key.shape[-2]), -torch.inf, dtype=query.dtype).triu_(1)
    scores = torch.baddbmm(future, query.flatten(0, 1), key.flatten(0, 1).transpose(1, 2), alpha=scale)
    return scores.softmax(-1).unflatten(0, query.shape[:2])


def short_causal_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """An attention function for transformers; what it is not made for goes to transformers' own."""
    from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward

    same_length = query.shape[2] == key.shape[2] <= LONGEST_SHORT_ATTENTION
    other = any(kwargs.get(name) is not None for name in ("softcap", "s_aux", "position_bias"))
    if attention_mask is not None or dropout > 0 or not same_length or other or query.device.type != "cpu":
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    groups = getattr(module, "num_key_value_groups", 1)
    key, value = repeat_kv(key, groups).contiguous(), repeat_kv(value, groups).contiguous()
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    output = ShortCausalAttention.apply(query.contiguous(), key, value, scale)
    return output.transpose(1, 2).contiguous(), None


def use_short_attention() -> None:
    """Let every transformers model of this process that asks for ``sdpa`` have this attention where it fits.

    It takes the name ``sdpa``, since transformers leaves out the causal mask under that name only.
    """
    from transformers import AttentionInterface

    AttentionInterface.register("sdpa", short_causal_attention)
