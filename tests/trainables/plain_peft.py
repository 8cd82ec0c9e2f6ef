"""What a trial's losses must be: plain transformers and PEFT in a plain loop, with none of our code in the pass."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainables.batches import Batch, collate, plan_rungs
from trainables.data import PreparedData
from trainables.settings import TrialSpec
from trainables.training import learning_rate_factor


def plain_model(folder: Path, attention: str = "eager") -> Any:
    """The model in fp32 as transformers loads it."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation=attention)


def with_adapter(model: Any, spec: TrialSpec, experts: Sequence[str]) -> Any:
    """The model with the trial's adapter, drawn from the trial's seed."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=spec.config.rank,
        lora_alpha=spec.config.alpha,
        target_modules=[name for name in spec.target_modules if name not in experts],
        target_parameters=list(experts) or None,
    )
    torch.manual_seed(spec.seed)
    return get_peft_model(model, config)


def summed_loss(model: Any, batch: Batch) -> tuple[Tensor, int]:
    """Of the targets of a padded batch, with its attention mask."""
    logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits[batch.positions]
    return torch.nn.functional.cross_entropy(logits.float(), batch.targets, reduction="sum"), len(
        batch.targets
    )


def loss_on(model: Any, data: PreparedData) -> float:
    """The mean loss per target on the validation split."""
    model.eval()
    with torch.no_grad():
        parts = [summed_loss(model, collate([example], data.pad_token_id)) for example in data.validation]
    model.train()
    return float(sum(part[0] for part in parts)) / sum(part[1] for part in parts)


def plain_losses(model: Any, spec: TrialSpec, data: PreparedData) -> list[float]:
    """Validation losses at the rungs of a training of what is trainable, by AdamW on the trial's batches."""
    config, lengths = spec.config, [len(example.input_ids) for example in data.train]
    plan = plan_rungs(len(data.train), spec.rungs, config.batch_size, spec.seed, lengths)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=config.learning_rate, weight_decay=config.weight_decay)
    total, step, losses = sum(map(len, plan)), 0, []
    model.train()
    for batches in plan:
        for indices in batches:
            factor = learning_rate_factor(step, total, round(config.warmup_ratio * total))
            optimizer.param_groups[0]["lr"] = config.learning_rate * factor
            loss, targets = summed_loss(model, collate([data.train[i] for i in indices], data.pad_token_id))
            (loss / targets).backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            step += 1
        losses.append(loss_on(model, data))
    return losses
