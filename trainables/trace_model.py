"""Llama models without weights, and operators as CUDA would choose them, for tracing on fake tensors."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainables.layer_memory import Device
from trainables.plugin_memory import BLOCK_8BIT, MIN_8BIT_SIZE
from trainables.settings import Architecture

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM


def meta_llama(arch: Architecture, layers: int, dtype: torch.dtype) -> "LlamaForCausalLM":
    """The architecture with ``layers`` layers and uninitialised weights. Call it under a FakeTensorMode."""
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.initialization import no_init_weights

    config = LlamaConfig(
        hidden_size=arch.hidden_size,
        intermediate_size=arch.intermediate_size,
        num_hidden_layers=layers,
        num_attention_heads=arch.num_heads,
        num_key_value_heads=arch.num_kv_heads,
        head_dim=arch.head_dim,
        vocab_size=arch.vocab_size,
        tie_word_embeddings=arch.tie_word_embeddings,
        use_cache=False,
        pad_token_id=None,
        attn_implementation="sdpa",
    )
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)  # as from_pretrained does
    try:
        with no_init_weights():
            model = LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(before)
    model.tie_weights()
    return model.eval()


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

    # It looks at the positions for several sequences in one row, which fake tensors do not show, so that it would make a
    # mask, and attention would take another kernel than the training loop's.
    unpacked = patch.object(masking_utils, "find_packed_sequence_indices", lambda position_ids: None)
    attention: Callable[..., Any] = sdpa_attention_forward if device == "cuda" else short_causal_attention
    with ExitStack() as stack:
        stack.enter_context(unpacked)
        stack.enter_context(patch.dict(AttentionInterface._global_mapping, {"sdpa": attention}))
        if device == "cuda":
            stack.enter_context(patch.object(F, "scaled_dot_product_attention", _cuda_attention))
            stack.enter_context(patch.object(F, "dropout", _cuda_dropout))
        yield
