"""One training step of the real loop on fake tensors: `Training` itself, its base model and its batches without data."""

from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from trainables.batches import Batch
from trainables.chat import TokenizedExample
from trainables.layer_memory import Device
from trainables.lifetimes import Lifetimes
from trainables.memory import innermost_optimizer
from trainables.meta_model import decoder_layers, empty_model
from trainables.quantization import statistics
from trainables.settings import Architecture, TrialSpec
from trainables.timeline import BACKWARD, FORWARD, UPDATE
from trainables.trace_events import HOST, LifetimeCounter
from trainables.trace_model import Adam8bit, kernels_of
from trainables.trace_quantized import pack_linears
from trainables.trace_world import fake_world
from trainables.training import Training, base_dtype, quantized_to


@dataclass(frozen=True)
class StepShape:
    """What is traced: a model's shape with so many layers, and micro-batches of ``seq_len`` tokens an example, in which
    ``positions`` of all predict a supervised one.
    """

    arch: Architecture
    layers: int
    seq_len: int
    positions: int
    device: Device


class TracedTraining(Training):
    """The training loop, told about the phases it goes through by ``counter``."""

    def __init__(self, spec: TrialSpec, base: nn.Module, shape: StepShape) -> None:
        self._shape = shape
        self.counter = LifetimeCounter(offloads=spec.execution.plugin == "zero2-offload")
        tokens = np.zeros(shape.seq_len, dtype=np.int64)
        example = TokenizedExample(tokens, np.ones(shape.seq_len, dtype=bool))
        data: Any = SimpleNamespace(train=[example] * spec.config.batch_size, pad_token_id=0)
        super().__init__(spec, base, data, torch.device("cpu"))
        for module in self.model.modules():
            if isinstance(module, DistributedDataParallel):
                module.register_comm_hook(None, _no_reduction)
                module.reducer = _Reducer(module.reducer)
        if spec.execution.gradient_checkpointing:
            self._mark_recomputing()

    def _mark_recomputing(self) -> None:
        def told(checkpoint: Any, function: Any, *args: Any) -> Any:
            return checkpoint(partial(self._run_layer, function), *args)

        for layer in decoder_layers(self.module):
            checkpoint = getattr(layer, "_gradient_checkpointing_func", None)
            if checkpoint is not None:
                layer._gradient_checkpointing_func = partial(told, checkpoint)

    def _run_layer(self, function: Any, *args: Any) -> Any:
        if self.counter.phase != BACKWARD:
            return function(*args)
        self.counter.begin_recomputing()
        try:
            return function(*args)
        finally:  # also when stopped early
            self.counter.end_recomputing()

    def _make_plugin(self) -> Any:
        """ZeRO then reduces every gradient by itself: so layers need equal operators, for at most 25 MB less."""
        plugin: Any = super()._make_plugin()
        if hasattr(plugin, "zero_optim_kwargs"):
            plugin.zero_optim_kwargs["reduce_bucket_size"] = 1
        return plugin

    def _fuses_adapters(self, device_type: str) -> bool:
        return super()._fuses_adapters(self._shape.device)

    def _micro_batches(self, indices: list[int]) -> list[Batch]:
        examples, length = self._micro_batch, self._shape.seq_len
        targets = self._shape.positions
        return [
            Batch(
                input_ids=torch.empty(examples, length, dtype=torch.int64),
                attention_mask=torch.empty(examples, length, dtype=torch.int64),
                targets=torch.empty(targets, dtype=torch.int64),
                positions=torch.empty(examples, length, dtype=torch.bool),
                example_of_target=torch.empty(targets, 2, dtype=torch.int64)[:, 0],  # of `nonzero`'s rows
            )
        ]

    def _make_optimizer(self, module: nn.Module) -> torch.optim.Optimizer:
        parameters = [p for p in module.parameters() if p.requires_grad]
        if self.spec.execution.plugin == "zero2-offload":  # HybridAdam would compile its kernels
            return torch.optim.AdamW(parameters, fused=True)
        if self.spec.execution.optimizer == "adamw-8bit":
            return Adam8bit(parameters)
        return super()._make_optimizer(module)

    def _backward(self, loss: Tensor) -> None:
        self.counter.begin_phase(BACKWARD)
        super()._backward(loss)
        self.counter.begin_phase(FORWARD)

    def _update(self) -> None:
        self.counter.begin_phase(UPDATE)
        super()._update()

    def trace(self, accumulates: bool) -> Lifetimes:
        """What lives during a step when Adam's states exist."""
        self._create_states()
        self._register()
        with self.counter:
            self.counter.begin_phase(FORWARD)
            self.step_on([[0]] * (2 if accumulates else 1))
        return self.counter.lifetimes(self._shape.positions * self._shape.arch.vocab_size)

    def _create_states(self) -> None:
        optimizer = innermost_optimizer(self.optimizer)
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        for parameter in parameters:
            parameter.grad = None

    def _register(self) -> None:
        parameters = list(self.module.parameters())
        full = self.spec.kind == "full"
        adapters = [p for p in parameters if p.requires_grad and not full]
        optimizer = innermost_optimizer(self.optimizer)
        masters = [p for group in optimizer.param_groups for p in group["params"]]
        states = [v for s in optimizer.state.values() for v in s.values() if torch.is_tensor(v)]
        self.counter.register_as("adapters", adapters)
        self.counter.register_as(
            "base_weights", [*parameters, *self.module.buffers(), *statistics(self.module)]
        )
        offloads = self.spec.execution.plugin == "zero2-offload"
        self.counter.register_as(HOST if offloads else "optimizer_state", [*masters, *states])


class _Reducer:
    """DDP's reducer, but that it keeps its buckets: to form them anew it would copy the parameters' data."""

    def __init__(self, reducer: Any) -> None:
        self._reducer = reducer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reducer, name)

    def _rebuild_buckets(self) -> bool:
        return False


def _no_reduction(state: object, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
    """DDP's own reduction would ask the fake process group for a result, of which there is none."""
    future: torch.futures.Future[Tensor] = torch.futures.Future()
    future.set_result(bucket.buffer())
    return future


def trace_step(spec: TrialSpec, shape: StepShape) -> Lifetimes:
    """What lives during one optimizer step of ``spec`` on batches of ``shape``, on one of the spec's devices.

    ``spec.config.batch_size`` is what one device sees per step.
    """
    execution = spec.execution
    micro_batch = execution.micro_batch(spec.config.batch_size)
    precision = quantized_to(spec)
    # bitsandbytes' own quantisation needs data: `pack_linears` takes its place.
    plain = spec.model_copy(update={"execution": execution.model_copy(update={"quantize": False})})
    with (
        kernels_of(shape.device),
        fake_world(execution.devices_per_trial, shape.positions),
    ):
        base = empty_model(shape.arch, shape.layers, base_dtype(spec))
        if precision:
            pack_linears(base, precision, shape.device)
        return TracedTraining(plain, base, shape).trace(spec.config.batch_size > micro_batch)
