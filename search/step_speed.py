"""How much faster or slower a training step is with another execution: a small model, told what was measured once.

The time of a pass over a micro-batch is its operations, forward and backward, plus calling them. Checkpointing adds the
layers' forward pass once more. No frozen weight has a gradient, so backward costs about as much as forward: of a large
model checkpointing leaves 2/3 of the speed, not the 3/4 of full fine-tuning.
"""

from dataclasses import dataclass
from functools import cached_property

from trainables.memory_model import per_device_batch
from trainables.model_shape import shape_of
from trainables.parameter_counts import trainable_parameters
from trainables.settings import Architecture, ExecutionSettings, TrialConfig

# What a pass costs whatever its size, in tokens: reading the weights, products of too few rows. CPU: fitted, see
# `StepSpeed`. CUDA: where a bf16 product of 2 T W operations takes as long as reading its 2 W bytes: 312 TFLOP/s over
# 2.0 TB/s = 153 on an A100, 989 over 3.35 = 295 on an H100 (NVIDIA's data sheets).
FIXED_TOKENS = {"cpu": 25.0, "cuda": 200.0}
# Seconds to call the operators of a layer, forward and backward. CPU: fitted. CUDA: assumed, about 250 kernels of a Llama
# layer with adapters at 6 microseconds each; the GPU computes meanwhile, so there it is only a least time.
CALL_SECONDS = {"cpu": 5e-3, "cuda": 1.5e-3}
# With checkpointing, its own bookkeeping included. Fitted on a CPU.
CHECKPOINTED_CALLS = 1.9
# Attention's backward pass has 2.5 times the operations of its forward pass (FlashAttention-2, arXiv 2307.08691).
ATTENTION_BACKWARD = 2.5
# Seconds per trained parameter of an optimizer step on the host: assumed, 28 bytes read and written at 50 GB/s, and 4
# over a bus of 20 GB/s.
OFFLOADED_SECONDS = 28 / 50e9 + 4 / 20e9
# However long offloading and calling are taken to be, this share of the measured time was computing.
_LEAST_SHARE = 0.1


@dataclass(frozen=True)
class StepSpeed:
    """The speed of one trial's optimizer step.

    ``own_seconds`` is what a step took with the ``own`` execution. ``tokens_per_example`` is the mean, and
    ``supervised_fraction`` the share of tokens at which the head is computed.

    Measured for the CPU's constants: optimizer steps of random Llamas in bf16 with adapters of rank 16, as CPU seconds of
    one thread (AVX512-BF16; other work on the machine), the least of two to five. Speeds relative to one pass, with
    and without checkpointing, modelled / measured:

    ============================================  ==========  ==========  ==========  ==========
    micro-batch, of 8 (of 4)                      8 (4)       4 (2)       2 (1)       1
    ============================================  ==========  ==========  ==========  ==========
    fitted: hidden 576, 8 layers, 96 tokens       1.00/1.00   0.93/0.95   0.82/0.82   0.66/0.66
    checkpointing                                 0.68/0.71   0.62/0.66   0.54/0.54   0.42/0.49
    the same, query and value only                1.00/1.00   0.92/0.95   0.80/0.82   0.64/0.59
    checkpointing                                 0.67/0.76   0.61/0.67   0.52/0.54   0.40/0.41
    hidden 128, 4 layers, 64 tokens               1.00/1.00   0.71/0.71   0.45/0.46   0.26/0.28
    checkpointing                                 0.62/0.59   0.42/0.42   0.25/0.26   0.14/0.15
    checked: hidden 576, 8 layers, 384 tokens     1.00/1.00   0.97/0.97   0.91/0.99
    checkpointing                                 0.69/0.72   0.66/0.70   0.62/0.69
    hidden 1536, 4 layers, 96 tokens              1.00/1.00   0.93/0.96   0.81/0.84
    checkpointing                                 0.68/0.73   0.62/0.69   0.54/0.55
    ============================================  ==========  ==========  ==========  ==========

    Off by 0.09 at most, by 0.08 where it was not fitted. Nothing was measured on CUDA.
    """

    arch: Architecture
    target_modules: tuple[str, ...]
    config: TrialConfig
    own: ExecutionSettings
    device: str
    tokens_per_example: float
    supervised_fraction: float
    own_seconds: float

    def relative(self, execution: ExecutionSettings) -> float:
        """How many times as fast as the own execution."""
        return self.own_seconds / self.seconds(execution)

    def seconds(self, execution: ExecutionSettings) -> float:
        """Seconds of an optimizer step; ``own_seconds`` for the own execution."""
        computing = self._seconds_per_operation * self._work(execution)
        calling = self._calls(execution)
        one_pass = max(computing, calling) if self.device == "cuda" else computing + calling
        return self._passes(execution) * one_pass + self._offloaded(execution)

    @cached_property
    def _own_pass(self) -> float:
        """Seconds that a pass took, the optimizer on the host left out."""
        training = max(self.own_seconds - self._offloaded(self.own), _LEAST_SHARE * self.own_seconds)
        return training / self._passes(self.own)

    @cached_property
    def _seconds_per_operation(self) -> float:
        called = 0.0 if self.device == "cuda" else self._calls(self.own)
        return (self._own_pass - called) / self._work(self.own)

    def _calls(self, execution: ExecutionSettings) -> float:
        """Seconds of a pass's calls; fewer than thought where the own pass took less."""
        factor = CHECKPOINTED_CALLS if execution.gradient_checkpointing else 1.0
        own = CHECKPOINTED_CALLS if self.own.gradient_checkpointing else 1.0
        most = self._own_pass * (1.0 if self.device == "cuda" else 1 - _LEAST_SHARE)
        return factor * min(CALL_SECONDS[self.device] * self.arch.num_layers, most / own)

    def _passes(self, execution: ExecutionSettings) -> int:
        """Forward passes of a step on one device."""
        batch = per_device_batch(self.config, execution)
        return -(-batch // execution.micro_batch(batch))

    def _work(self, execution: ExecutionSettings) -> float:
        """Operations of a pass: its tokens, and the fixed ones."""
        examples = per_device_batch(self.config, execution) / self._passes(execution)
        tokens = examples * self.tokens_per_example + FIXED_TOKENS[self.device]
        return tokens * self.operations_per_token(execution.gradient_checkpointing)

    def operations_per_token(self, checkpointing: bool) -> float:
        """Floating-point operations of a token, forward and backward."""
        arch = self.arch
        weights = 2 * shape_of(arch).active_weights()
        # A token attends to half the sequence on average, in two products of 2 operations each.
        attention = 2 * arch.num_layers * arch.num_heads * arch.head_dim * self.tokens_per_example
        forward = weights + 2 * self._adapters + attention
        backward = weights + 4 * self._adapters + ATTENTION_BACKWARD * attention
        head = 2 * 2 * arch.vocab_size * arch.hidden_size * self.supervised_fraction
        return forward + backward + head + (forward if checkpointing else 0)

    def _offloaded(self, execution: ExecutionSettings) -> float:
        """Seconds of the optimizer's step on the host."""
        if execution.plugin != "zero2-offload":
            return 0.0
        return OFFLOADED_SECONDS * self._adapters / execution.devices_per_trial

    @property
    def _adapters(self) -> int:
        config = self.config
        return trainable_parameters(self.arch, self.target_modules, config.rank, config.use_dora)
