"""A plain training step on a small random Llama, like the training loop's, to count its memory."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from trainables.cpu_attention import use_short_attention
from trainables.fused_adapters import fuse_adapters
from trainables.settings import Architecture

# Not too tiny: hidden states, logits and weights all matter. Grouped queries, tied embeddings.
TINY = {
    "hidden_size": 128,
    "intermediate_size": 344,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 1000,
    "tie_word_embeddings": True,
}
ATTENTION_QV = ("q_proj", "v_proj")
MLP = ("gate_proj", "up_proj", "down_proj")
ALL_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", *MLP)


def architecture(shape: dict[str, Any] = TINY) -> Architecture:
    return Architecture.from_model_config(shape)


@contextmanager
def process_group_of_one() -> Iterator[None]:
    """What DDP needs; one that another test left open will do."""
    if dist.is_initialized():
        yield
        return
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()


class CountedStep:
    """Calling it runs one optimizer step. ``head_positions`` are those whose next token is supervised."""

    def __init__(
        self,
        shape: dict[str, Any] = TINY,
        *,
        kind: str = "lora",
        targets: tuple[str, ...] = ALL_LINEAR,
        rank: int = 8,
        batch: int = 4,
        seq_len: int = 64,
        supervised_fraction: float = 1.0,
        checkpointing: dict[str, Any] | None = None,
        dora: bool = False,
        dropout: float = 0.0,
        accumulation: int = 1,
        wrap: Callable[[nn.Module], nn.Module] = lambda model: model,
        short_attention: bool = True,
    ) -> None:
        from peft import LoraConfig, get_peft_model
        from transformers import LlamaConfig, LlamaForCausalLM

        if short_attention:
            use_short_attention()
        torch.manual_seed(0)
        model: Any = LlamaForCausalLM(LlamaConfig(**shape, use_cache=False, max_position_embeddings=2048))
        model.lm_head.register_forward_pre_hook(self._select_positions)
        if kind == "lora":
            config = LoraConfig(
                r=rank,
                target_modules=list(targets),
                lora_dropout=dropout,
                use_dora=dora,
                task_type="CAUSAL_LM",
            )
            model = get_peft_model(model.bfloat16(), config)  # makes the adapters fp32
            fuse_adapters(model)
        if checkpointing is not None:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=checkpointing)
            model.disable_input_require_grads()  # which transformers 5 enables, and the training loop undoes
            if checkpointing.get("use_reentrant"):
                model.enable_input_require_grads()  # else adapters get no gradient
        self.model = wrap(model.train())
        self.trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trained, lr=1e-3, fused=True)
        self.autocast = kind == "full"
        self.accumulation = accumulation
        self.input_ids = torch.randint(shape["vocab_size"], (batch, seq_len))
        supervised = torch.zeros(batch, seq_len, dtype=torch.bool)
        supervised[:, max(1, seq_len - round(seq_len * supervised_fraction)) :] = True
        self.targets = self.input_ids[supervised]
        self.head_positions = (supervised.flatten().nonzero().squeeze(1) - 1).contiguous()

    def __call__(self) -> float:
        for _ in range(self.accumulation):
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.autocast):
                losses = self._token_losses()
            loss = losses.mean()
            loss.backward()
        nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.item()

    def _token_losses(self) -> Tensor:
        logits = self.model(input_ids=self.input_ids).logits  # freed on return, before backward
        return nn.functional.cross_entropy(logits[0].float(), self.targets, reduction="none")

    def held(self) -> Iterator[Tensor]:
        """Every tensor that is alive before the step."""
        yield from self.model.parameters()
        yield from self.model.buffers()
        for state in self.optimizer.state.values():
            yield from state.values()
        yield from (self.input_ids, self.targets, self.head_positions)

    def _select_positions(self, head: nn.Module, arguments: tuple[Tensor]) -> tuple[Tensor]:
        return (arguments[0].flatten(0, 1)[self.head_positions].unsqueeze(0),)
