"""Modules, optimizers and operators as CUDA would have them, for tracing on fake tensors."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainables.layer_memory import Device
from trainables.plugin_memory import BLOCK_8BIT, MIN_8BIT_SIZE


class Adam8bit(torch.optim.Optimizer):
    """What bitsandbytes' AdamW8bit keeps for each parameter, without its arithmetic."""

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        super().__init__(parameters, {"lr": 1e-3})

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Create the moments that are missing."""
        for parameter in (p for group in self.param_groups for p in group["params"] if p.grad is not None):
            size, state = parameter.numel(), self.state[parameter]
            if state:
                continue
            blocks = -(-size // BLOCK_8BIT) if size >= MIN_8BIT_SIZE else 0
            for moment in ("state1", "state2"):
                state[moment] = torch.empty(size, dtype=torch.uint8 if blocks else torch.float32)
                state[f"absmax{moment[-1]}"] = torch.empty(blocks)


def _cuda_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    **kwargs: Any,
) -> Tensor:
    """The kernel that PyTorch picks on CUDA without a mask: flash attention, in fp32 the memory-efficient one."""
    if torch.is_autocast_enabled("cpu"):  # which acts on the function that this one stands for
        query, key, value = (x.to(torch.get_autocast_dtype("cpu")) for x in (query, key, value))
    if query.dtype == torch.float32:
        efficient = torch.ops.aten._scaled_dot_product_efficient_attention
        return efficient(query, key, value, None, True, dropout_p, is_causal, scale=scale)[0]  # type: ignore[no-any-return]
    flash = torch.ops.aten._scaled_dot_product_flash_attention
    return flash(query, key, value, dropout_p, is_causal, scale=scale)[0]  # type: ignore[no-any-return]


def _cuda_dropout(x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """CUDA keeps a mask of one byte per element (`native_dropout`); a CPU one in the input's dtype."""
    return torch.native_dropout(x, p, True)[0] if training and p > 0 else x


@contextmanager
def kernels_of(device: Device) -> Iterator[None]:
    """Let attention and dropout be those that the training loop would have on ``device``."""
    from transformers import AttentionInterface, masking_utils
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    from trainables.cpu_attention import short_causal_attention

    attention: Callable[..., Any] = sdpa_attention_forward if device == "cuda" else short_causal_attention
    with ExitStack() as stack:
        stack.enter_context(patch.dict(AttentionInterface._global_mapping, {"sdpa": attention}))
        # With data it sees that no sequences are packed, and then no mask is made.
        stack.enter_context(patch.object(masking_utils, "is_tracing", lambda tensor=None: False))
        if device == "cuda":
            stack.enter_context(patch.object(F, "scaled_dot_product_attention", _cuda_attention))
            stack.enter_context(patch.object(F, "dropout", _cuda_dropout))
        yield
