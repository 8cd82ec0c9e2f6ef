"""Where in a training its peak memory is measured: in an ordinary step if that will do, else in a probe step."""

import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from trainables.memory import DeviceMemory, preserved_training_state, probe_cpu_peak, read_cuda_peak
from trainables.plugins import clips_by_itself
from trainables.quantization import statistics

if TYPE_CHECKING:
    from trainables.training import Training


class MemoryProbe:
    """Finds the peak memory of a training's step on its longest micro-batch, with Adam's states in place.

    Nothing of that changes the training: the same losses, bit for bit, as without.

    Attributes:
        memory: what was measured; None before.
        extra_seconds: what measuring added to the ordinary steps, the counting itself in one of them aside.
        is_done: whether nothing is left to measure, because it was, or because a checkpoint knows.
    """

    def __init__(self, training: "Training", longest: list[int], accumulates: bool) -> None:
        self._training, self._longest, self._accumulates = training, longest, accumulates
        self.memory: DeviceMemory | None = None
        self.is_done = False
        self.extra_seconds = 0.0

    def before_rung(self, batches: list[list[int]]) -> None:
        """Measure in a step of its own, unless one of the rung's ordinary steps is as good."""
        if not self.is_done and not (self._plain and self._longest in batches):
            self.memory, self.is_done = self.extra_step(), True

    @property
    def _plain(self) -> bool:
        """Whether a step is one micro-batch (else the earlier ones' gradients count) and the optimizer ordinary."""
        return not self._accumulates and not clips_by_itself(self._training.spec.execution)

    def around(self, indices: list[int], step: Callable[[], None]) -> None:
        """Run an ordinary step, and measure it if it is the one that needs most."""
        if self.is_done or indices != self._longest:
            step()
            return
        started = time.perf_counter()
        self._create_zero_states()
        self.extra_seconds += time.perf_counter() - started
        self.memory, self.is_done = self._peak_of(step), True

    def extra_step(self) -> DeviceMemory:
        """The peak of one optimizer step that is undone afterwards."""
        training = self._training
        with preserved_training_state(training.module, training.optimizer, training.scheduler):
            batches = [self._longest] * (2 if self._accumulates else 1)
            if clips_by_itself(
                training.spec.execution
            ):  # its optimizer finds gradients in its own buckets only
                training.step_on(batches)
            else:
                self._step_on_zero_gradients()
            return self._peak_of(partial(training.step_on, batches))

    def _create_zero_states(self) -> None:
        """Adam's states as its first step would begin with, if there are none yet: a step of rate 0, uncounted."""
        optimizer = self._training.optimizer.optim
        if optimizer.state:
            return
        rates = [group["lr"] for group in optimizer.param_groups]
        for group in optimizer.param_groups:
            group["lr"] = 0.0
        self._step_on_zero_gradients()
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        for state in optimizer.state.values():
            state["step"] = state["step"] * 0  # a number with bitsandbytes' optimizer, else a tensor

    def _step_on_zero_gradients(self) -> None:
        for parameter in self._training.module.parameters():
            if parameter.requires_grad:
                parameter.grad = torch.zeros_like(parameter)
        self._training.optimizer.step()
        self._training.optimizer.zero_grad()

    def _peak_of(self, step: Callable[[], object]) -> DeviceMemory:
        device = self._training.device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            step()
            return read_cuda_peak(device)
        return probe_cpu_peak(step, self._held())

    def _held(self) -> list[Tensor]:
        """Every tensor that is alive before a step."""
        module, optimizer = self._training.module, self._training.optimizer.optim
        states = [v for s in optimizer.state.values() for v in s.values() if torch.is_tensor(v)]
        gradients = [p.grad for p in module.parameters() if p.grad is not None]
        return [*module.parameters(), *module.buffers(), *statistics(module), *gradients, *states]
