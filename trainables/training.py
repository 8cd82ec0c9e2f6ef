"""The training of one trial, through ColossalAI's Booster: on one device, or this device's share of it.

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

from search.errors import DivergedError
from trainables.adapters import adapter_tensors, lora_config, remove_adapter
from trainables.batches import (
    Batch,
    collate,
    longest_micro_batch,
    plan_rungs,
    split_micro,
    without_targets,
)
from trainables.fused_adapters import fuse_adapters
from trainables.guards import FirstBackwardGuard, check_base_dtype, check_trainable
from trainables.hybrid_adam import hybrid_adam
from trainables.losses import WHOLE, SupervisedHead, to_device, token_losses
from trainables.memory import reset_cuda_peak
from trainables.plugins import NO_SYNC_PLUGINS, clips_by_itself, keep_from_ddp, make_plugin
from trainables.probe import MemoryProbe
from trainables.settings import Precision, TrialSpec
from trainables.shard import Shard

if TYPE_CHECKING:
    from colossalai.booster.plugin.plugin_base import Plugin

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


def half_precision(spec: TrialSpec, device: torch.device) -> AbstractContextManager[Any]:
    """Half-precision arithmetic on fp32 master weights, where the plugin has none of its own."""
    execution = spec.execution
    if spec.kind == "full" and execution.plugin == "ddp" and execution.dtype != "fp32":
        return torch.autocast(device.type, dtype=_DTYPES[execution.dtype])
    return nullcontext()


def trains_fp32(spec: TrialSpec) -> bool:
    """Whether the base model is loaded in fp32: where it is trained without the plugin's master weights."""
    return spec.kind == "full" and spec.execution.plugin == "ddp"


def quantized_to(spec: TrialSpec) -> Precision | None:
    """What the trial's base model is quantised to, None if it is not; full fine-tuning cannot train such weights."""
    return spec.execution.base_precision if spec.kind == "lora" else None


def base_dtype(spec: TrialSpec) -> torch.dtype:
    """The dtype that the base model is loaded in."""
    return torch.float32 if trains_fp32(spec) else _DTYPES[spec.execution.dtype]


class Training:
    """A trial in training: model with adapter, optimizer, schedule and data order, boosted by ColossalAI.

    Everything random comes from the spec's seed: adapters, data order, and dropout, which is seeded anew at every
    rung, so that a checkpoint needs no random state.

    Where devices share the trial, all of them go through the same optimizer batches in the same order, and each takes
    its part of every micro-batch. The gradient is that of the mean over the targets of the whole batch, however they
    fall to the devices; what is reported is of all devices alike.
    """

    def __init__(
        self,
        spec: TrialSpec,
        base: nn.Module,
        data: "PreparedData",
        device: torch.device,
        shard: Shard = WHOLE,
    ) -> None:
        from colossalai.booster import Booster

        self.spec, self.data, self.device, self.shard = spec, data, device, shard
        self.progress = Progress()
        lengths = [len(example.input_ids) for example in data.train]
        # Of all devices together: each computes its share of it in one pass.
        self._micro_batch = shard.devices * spec.execution.micro_batch(
            spec.config.batch_size // shard.devices
        )
        self.plan = plan_rungs(len(data.train), spec.rungs, spec.config.batch_size, spec.seed, lengths)
        longest = longest_micro_batch(self.plan, lengths, self._micro_batch, shard.devices)
        self.probe = MemoryProbe(self, longest, accumulates=spec.config.batch_size > self._micro_batch)
        torch.manual_seed(spec.seed)
        if device.type == "cuda":
            reset_cuda_peak(device)
        self.booster = Booster(plugin=self._make_plugin())
        module = self._with_adapter(base)
        keeps_initial = spec.kind == "lora" and spec.config.init == "pissa"
        self.initial = {n: t.clone() for n, t in adapter_tensors(module).items()} if keeps_initial else None
        optimizer = self._make_optimizer(module)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, self._schedule())
        if shard.devices > 1:
            keep_from_ddp(module)
        self.model, self.optimizer, _, _, self.scheduler = self.booster.boost(
            module, optimizer, lr_scheduler=scheduler
        )
        self.module = module
        self.head = SupervisedHead(module)  # now, since the hybrid plugin exchanges the head when it boosts
        self.model.train()
        self._guard: FirstBackwardGuard | None = FirstBackwardGuard(
            module, spec.execution.gradient_checkpointing
        )

    def _make_plugin(self) -> "Plugin":
        return make_plugin(self.spec.execution)

    def _with_adapter(self, base: nn.Module) -> nn.Module:
        execution = self.spec.execution
        module: Any = base
        if self.spec.kind == "lora":
            module = self.booster.enable_lora(base, lora_config=lora_config(self.spec, base))
            check_trainable(module, self.spec.target_modules)
            check_base_dtype(module, base_dtype(self.spec))
            if self._fuses_adapters(self.device.type):
                fuse_adapters(module)
        if execution.gradient_checkpointing:
            reentrant = execution.reentrant_checkpointing
            module.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
            module.disable_input_require_grads()  # transformers 5 enables them always, and leaves them so
            if reentrant and self.spec.kind == "lora":
                module.enable_input_require_grads()  # else a frozen embedding leaves adapters without gradients
        return module

    def _fuses_adapters(self, device_type: str) -> bool:
        """On CUDA PEFT's own passes over fp32 adapters are faster: 127 ms a step for 155 to 167 (Llama 1B, H200)."""
        return device_type == "cpu" or self.spec.execution.plugin != "ddp"

    def _make_optimizer(self, module: nn.Module) -> torch.optim.Optimizer:
        config = self.spec.config
        parameters = [p for p in module.parameters() if p.requires_grad]
        if self.spec.execution.plugin == "zero2-offload":
            return hybrid_adam(parameters, config.learning_rate, config.weight_decay)
        if self.spec.execution.optimizer == "adamw-8bit":
            from bitsandbytes.optim import AdamW8bit

            return AdamW8bit(parameters, lr=config.learning_rate, weight_decay=config.weight_decay)  # type: ignore[no-any-return]
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
        """The context that losses are computed in."""
        return half_precision(self.spec, self.device)

    def train_to_next_rung(self) -> float:
        """Train on the examples up to the next rung. Returns the mean training loss per token on them.

        Raises:
            DivergedError: the loss is not finite.
            TrialError: one of `trainables.guards`.
        """
        batches = self.plan[self.progress.rung]
        self.probe.before_rung(batches)
        # Of its own on every device, else they would all drop the same activations.
        torch.manual_seed(self.spec.seed * 1_000_003 + self.progress.rung + 1 + 1_000 * self.shard.rank)
        started = time.perf_counter()
        sums: list[tuple[float, int]] = []
        for indices in batches:
            self.probe.around(indices, lambda indices=indices: sums.append(self.step_on([indices])))  # type: ignore[misc]
            if not math.isfinite(sums[-1][0]):
                raise DivergedError(
                    f"diverged: the training loss became {sums[-1][0]} at optimizer step {self.progress.steps + 1}"
                )
            self.progress.steps += 1
            self.progress.tokens += sum(len(self.data.train[index].input_ids) for index in indices)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.progress.train_seconds += time.perf_counter() - started - self.probe.extra_seconds
        self.probe.extra_seconds = 0.0
        self.progress.rung += 1
        return sum(loss for loss, _ in sums) / sum(targets for _, targets in sums)

    def _micro_batches(self, indices: list[int]) -> list[Batch]:
        """The share of this device of every micro-batch; the same number of them on all devices."""
        return [
            to_device(self._share_of(chunk), self.device) for chunk in split_micro(indices, self._micro_batch)
        ]

    def _share_of(self, chunk: list[int]) -> Batch:
        own = self.shard.part(chunk)
        batch = collate([self.data.train[index] for index in own or chunk[:1]], self.data.pad_token_id)
        return batch if own else without_targets(batch)

    def step_on(self, parts: list[list[int]]) -> tuple[float, int]:
        """One optimizer step on all examples of the parts, by index; returns the summed loss and the targets."""
        batches = [batch for indices in parts for batch in self._micro_batches(indices)]
        targets = sum(
            int(self.data.train[index].supervised[1:].sum()) for indices in parts for index in indices
        )
        loss_sum = self._forward_backward(batches, targets)
        self._update()
        return loss_sum, targets

    def _forward_backward(self, batches: list[Batch], targets: int) -> float:
        """Accumulate the gradient of the mean loss over ``targets``, all devices' together; returns their summed loss.

        The plugins take the mean of the devices' gradients, where the sum is wanted: hence the factor.
        """
        loss_sum = torch.zeros((), device=self.device)
        for number, batch in enumerate(batches, 1):
            keep_local = number < len(batches) and self.spec.execution.plugin in NO_SYNC_PLUGINS
            with self.booster.no_sync(self.model, self.optimizer) if keep_local else nullcontext():
                with self.autocast():
                    losses = token_losses(self.model, self.head, batch)
                loss = losses.sum() / (targets / self.shard.devices)
                self._backward(loss)
            loss_sum += losses.detach().sum()
            del losses, loss  # and so the graph, with which int8 layers (bitsandbytes) keep their inputs
        if self._guard is not None:
            guard, self._guard = self._guard, None
            guard.check(len(batches))
        return self.shard.total(loss_sum).item()

    def _backward(self, loss: Tensor) -> None:
        self.booster.backward(loss, self.optimizer)

    def _update(self) -> None:
        if not clips_by_itself(self.spec.execution):
            self.optimizer.clip_grad_by_norm(self.spec.execution.max_grad_norm)
        self.optimizer.step()
        self.scheduler.step()
        self.optimizer.zero_grad()

    def close(self) -> nn.Module:
        """End the training; returns the base model as it was before (but for PiSSA, which changes it)."""
        self.head.remove()
        if self._guard is not None:
            self._guard.remove()
        module: Any = self.module
        if self.spec.execution.gradient_checkpointing:
            module.gradient_checkpointing_disable()
            if self.spec.execution.reentrant_checkpointing and self.spec.kind == "lora":
                module.disable_input_require_grads()
        base = remove_adapter(module) if self.spec.kind == "lora" else module
        for parameter in base.parameters():
            parameter.grad = None
        del self.model, self.optimizer, self.scheduler, self.booster
        return base
