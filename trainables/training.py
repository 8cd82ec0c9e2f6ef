"""The training of one trial on one device, through ColossalAI's Booster.

Full fine-tuning is the same loop without adapters: fp32 master weights under bf16 autocast with ``ddp``, the
plugin's own master weights elsewhere.
"""

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from search.errors import DivergedError, TrialError
from trainables.adapters import adapter_tensors, lora_config, remove_adapter
from trainables.batches import Batch, collate, longest_micro_batch, plan_rungs, split_micro
from trainables.losses import SupervisedHead, to_device, token_losses
from trainables.memory import (
    DeviceMemory,
    preserved_training_state,
    probe_cpu_peak,
    read_cuda_peak,
    reset_cuda_peak,
)
from trainables.plugins import NO_SYNC_PLUGINS, clips_by_itself, make_plugin
from trainables.settings import TrialSpec

if TYPE_CHECKING:
    from trainables.data import PreparedData

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


@dataclass
class Progress:
    """What a training has done so far, summed over its rungs; ``rung`` counts those reached."""

    rung: int = 0
    steps: int = 0
    train_seconds: float = 0.0
    tokens: int = 0


def learning_rate_factor(step: int, total_steps: int, warmup_steps: int) -> float:
    """Linear warm-up, then half a cosine to zero (SGDR without restarts, arXiv 1608.03983)."""
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    done = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


class Training:
    """A trial in training: model with adapter, optimizer, schedule and data order, boosted by ColossalAI.

    Everything random comes from the spec's seed: adapters, data order, and dropout, which is seeded anew at every
    rung, so that a checkpoint needs no random state.
    """

    def __init__(self, spec: TrialSpec, base: nn.Module, data: "PreparedData", device: torch.device) -> None:
        from colossalai.booster import Booster

        self.spec, self.data, self.device = spec, data, device
        self.progress = Progress()
        lengths = [len(example.input_ids) for example in data.train]
        self._micro_batch = spec.execution.micro_batch(spec.config.batch_size)
        self.plan = plan_rungs(len(data.train), spec.rungs, spec.config.batch_size, spec.seed, lengths)
        self._longest = longest_micro_batch(self.plan, lengths, self._micro_batch)
        self._checked_gradients = False
        torch.manual_seed(spec.seed)
        if device.type == "cuda":
            reset_cuda_peak(device)
        self.booster = Booster(plugin=make_plugin(spec.execution))
        module = self._with_adapter(base)
        keeps_initial = spec.kind == "lora" and spec.config.init == "pissa"
        self.initial = {n: t.clone() for n, t in adapter_tensors(module).items()} if keeps_initial else None
        self.head = SupervisedHead(module)
        optimizer = self._make_optimizer(module)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, self._schedule())
        self.model, self.optimizer, _, _, self.scheduler = self.booster.boost(
            module, optimizer, lr_scheduler=scheduler
        )
        self.module = module
        self.model.train()

    def _with_adapter(self, base: nn.Module) -> nn.Module:
        execution = self.spec.execution
        module: Any = base
        if self.spec.kind == "lora":
            module = self.booster.enable_lora(
                base, lora_config=lora_config(self.spec), quantize=execution.quantize
            )
            wrong = [n for n, p in module.named_parameters() if p.requires_grad and "lora_" not in n]
            if wrong:
                raise TrialError(
                    f"parameters outside the adapter are trainable: {wrong[0]} and {len(wrong) - 1} more"
                )
        if execution.gradient_checkpointing:
            # Not re-entrant: with a frozen embedding, re-entrant checkpoints leave adapters without gradients.
            module.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        if self.trainable_parameters(module) == 0:
            raise TrialError(f"nothing is trainable: no module matches {list(self.spec.target_modules)}")
        return module

    def _make_optimizer(self, module: nn.Module) -> torch.optim.Optimizer:
        config = self.spec.config
        parameters = [p for p in module.parameters() if p.requires_grad]
        if self.spec.execution.plugin == "zero2-offload":
            from colossalai.nn.optimizer import HybridAdam  # the one optimizer that steps where states lie

            return HybridAdam(parameters, lr=config.learning_rate, weight_decay=config.weight_decay)
        return torch.optim.AdamW(
            parameters, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
        )

    def _schedule(self) -> Callable[[int], float]:
        total = sum(len(batches) for batches in self.plan)
        warmup = round(self.spec.config.warmup_ratio * total)
        return partial(learning_rate_factor, total_steps=total, warmup_steps=warmup)

    def trainable_parameters(self, module: nn.Module | None = None) -> int:
        """How many numbers the optimizer may change."""
        return sum(p.numel() for p in (module or self.module).parameters() if p.requires_grad)

    def autocast(self) -> AbstractContextManager[Any]:
        """bf16 arithmetic on fp32 master weights, where the plugin has none of its own."""
        execution = self.spec.execution
        if self.spec.kind == "full" and execution.plugin == "ddp" and execution.dtype != "fp32":
            return torch.autocast(self.device.type, dtype=_DTYPES[execution.dtype])
        return nullcontext()

    def train_to_next_rung(self) -> float:
        """Train on the examples up to the next rung. Returns the mean training loss per token on them.

        Raises:
            DivergedError: the loss is not finite.
            TrialError: adapter parameters get no gradient.
        """
        torch.manual_seed(self.spec.seed * 1_000_003 + self.progress.rung + 1)
        started = time.perf_counter()
        loss_sum, target_count = 0.0, 0
        for indices in self.plan[self.progress.rung]:
            step_sum, step_targets = self._step(indices)
            if not math.isfinite(step_sum):
                raise DivergedError(
                    f"diverged: the training loss became {step_sum} at optimizer step {self.progress.steps + 1}"
                )
            loss_sum, target_count = loss_sum + step_sum, target_count + step_targets
            self.progress.steps += 1
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.progress.train_seconds += time.perf_counter() - started
        self.progress.rung += 1
        return loss_sum / target_count

    def _micro_batches(self, indices: list[int]) -> list[Batch]:
        chunks = split_micro(indices, self._micro_batch)
        examples = [[self.data.train[index] for index in chunk] for chunk in chunks]
        return [to_device(collate(chunk, self.data.pad_token_id), self.device) for chunk in examples]

    def _step(self, indices: list[int]) -> tuple[float, int]:
        """One optimizer step on a batch; returns the summed loss and the number of targets."""
        batches = self._micro_batches(indices)
        targets = sum(len(batch.targets) for batch in batches)
        loss_sum = self._forward_backward(batches, targets)
        self._update()
        self.progress.tokens += sum(int(batch.attention_mask.sum()) for batch in batches)
        return loss_sum, targets

    def _forward_backward(self, batches: list[Batch], targets: int) -> float:
        """Accumulate the gradient of the mean loss over all targets of the batches."""
        loss_sum = torch.zeros((), device=self.device)
        for number, batch in enumerate(batches, 1):
            keep_local = number < len(batches) and self.spec.execution.plugin in NO_SYNC_PLUGINS
            with self.booster.no_sync(self.model, self.optimizer) if keep_local else nullcontext():
                with self.autocast():
                    losses = token_losses(self.model, self.head, batch)
                loss = losses.sum() / targets
                self.booster.backward(loss, self.optimizer)
            loss_sum += losses.detach().sum()
        if not self._checked_gradients:
            self._check_gradients()
        return loss_sum.item()

    def _update(self) -> None:
        if not clips_by_itself(self.spec.execution):
            self.optimizer.clip_grad_by_norm(self.spec.execution.max_grad_norm)
        self.optimizer.step()
        self.scheduler.step()
        self.optimizer.zero_grad()

    def _check_gradients(self) -> None:
        """After the first backward: a trainable parameter without gradient trains nothing, silently."""
        self._checked_gradients = True
        if clips_by_itself(
            self.spec.execution
        ):  # ZeRO keeps gradients in its own buckets, not on the parameters
            return
        without = [n for n, p in self.module.named_parameters() if p.requires_grad and p.grad is None]
        if without:
            raise TrialError(
                f"{len(without)} trainable parameters got no gradient, the first is {without[0]}"
            )

    def probe_memory(self) -> DeviceMemory:
        """The peak of one optimizer step on the longest micro-batch, with Adam's states in place.

        The training goes on afterwards as if the probe had not happened.
        """
        with preserved_training_state(self.module, self.optimizer, self.scheduler):
            repeats = 2 if self.spec.config.batch_size > self._micro_batch else 1
            self._create_optimizer_states(repeats)
            if self.device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(self.device)
                self._probe_step(repeats)
                return read_cuda_peak(self.device)
            return probe_cpu_peak(partial(self._probe_step, repeats), self._held())

    def _create_optimizer_states(self, repeats: int) -> None:
        """Adam's states appear in its first step, which may see gradients of zero where it reads them itself."""
        if clips_by_itself(self.spec.execution):
            self._probe_step(repeats)
            return
        for parameter in self.module.parameters():
            if parameter.requires_grad:
                parameter.grad = torch.zeros_like(parameter)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def _probe_step(self, repeats: int) -> None:
        batches = [batch for _ in range(repeats) for batch in self._micro_batches(self._longest)]
        self._forward_backward(batches, sum(len(batch.targets) for batch in batches))
        self._update()

    def _held(self) -> list[Tensor]:
        states = [v for s in self.optimizer.optim.state.values() for v in s.values() if torch.is_tensor(v)]
        gradients = [p.grad for p in self.module.parameters() if p.grad is not None]
        return [*self.module.parameters(), *self.module.buffers(), *gradients, *states]

    def close(self) -> nn.Module:
        """End the training; returns the base model as it was before (but for PiSSA, which changes it)."""
        self.head.remove()
        module: Any = self.module
        if self.spec.execution.gradient_checkpointing:
            module.gradient_checkpointing_disable()
        base = remove_adapter(module) if self.spec.kind == "lora" else module
        for parameter in base.parameters():
            parameter.grad = None
        del self.model, self.optimizer, self.scheduler, self.booster
        return base
