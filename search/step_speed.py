"""How much faster or slower a training step is with another execution: a small model, told what was measured once.

A micro-batch of T tokens counts as T + T0 tokens of work, where T0 tokens are what each pass costs whatever its size:
reading the weights, small matrices, calling operators. The work of a token is its floating-point operations, forward
and backward; checkpointing adds the layers' forward pass once more. No frozen weight has a gradient, so backward costs
about as much as forward: checkpointing leaves 2/3 of the speed, not the 3/4 of full fine-tuning.
"""

from dataclasses import dataclass

from trainables.memory_model import per_device_batch
from trainables.parameter_counts import linear_weights, trainable_parameters
from trainables.settings import Architecture, ExecutionSettings, TrialConfig

# Tokens at which a pass runs at half its best speed.
# CPU: TO FILL
# CUDA: where a bf16 product of 2 T W operations takes as long as reading its 2 W bytes: 312 TFLOP/s over 2.0 TB/s = 153
# on an A100, 989 over 3.35 = 295 on an H100 (NVIDIA's data sheets). Never measured by us.
FIXED_TOKENS = {"cpu": 30.0, "cuda": 200.0}
# The least time of a layer's forward and backward pass on CUDA, where the host cannot call kernels any faster: assumed,
# about 250 kernels of a Llama layer with adapters at 6 microseconds each.
LAUNCH_SECONDS = 1.5e-3
# Attention's backward pass has 2.5 times the operations of its forward pass (FlashAttention-2, arXiv 2307.08691).
ATTENTION_BACKWARD = 2.5
# Seconds per trained parameter of an optimizer step on the host: assumed, 28 bytes read and written at 50 GB/s, and 4
# over a bus of 20 GB/s.
OFFLOADED_SECONDS = 28 / 50e9 + 4 / 20e9
# However slow offloading is taken to be, this share of the measured time was training.
_LEAST_SHARE = 0.1


@dataclass(frozen=True)
class StepSpeed:
    """The speed of one trial's optimizer step.

    ``own_seconds`` is what a step took with the ``own`` execution. ``tokens_per_example`` is the mean, and
    ``supervised_fraction`` the share of tokens at which the head is computed.
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
        own_pass = self._in_passes(self.own_seconds) / self._passes(self.own)
        per_operation = own_pass / self._work(self.own)
        # A floor that was passed by in fact is none.
        floor = min(self._floor(self.own), own_pass) * self._work_ratio(execution)
        one_pass = max(per_operation * self._work(execution), floor)
        return self._passes(execution) * one_pass + self._offloaded(execution)

    def _in_passes(self, seconds: float) -> float:
        return max(seconds - self._offloaded(self.own), _LEAST_SHARE * seconds)

    def _passes(self, execution: ExecutionSettings) -> int:
        """Forward passes of a step on one device."""
        batch = per_device_batch(self.config, execution)
        return -(-batch // execution.micro_batch(batch))

    def _work(self, execution: ExecutionSettings) -> float:
        """Operations of a pass: its tokens, and the fixed ones."""
        examples = per_device_batch(self.config, execution) / self._passes(execution)
        tokens = examples * self.tokens_per_example + FIXED_TOKENS[self.device]
        return tokens * self.operations_per_token(execution.gradient_checkpointing)

    def _work_ratio(self, execution: ExecutionSettings) -> float:
        own = self.operations_per_token(self.own.gradient_checkpointing)
        return self.operations_per_token(execution.gradient_checkpointing) / own

    def operations_per_token(self, checkpointing: bool) -> float:
        """Floating-point operations of a token, forward and backward."""
        arch = self.arch
        adapters = trainable_parameters(arch, self.target_modules, self.config.rank, self.config.use_dora)
        weights = 2 * linear_weights(arch)
        # A token attends to half the sequence on average, in two products of 2 operations each.
        attention = 2 * arch.num_layers * arch.num_heads * arch.head_dim * self.tokens_per_example
        forward = weights + 2 * adapters + attention
        backward = weights + 4 * adapters + ATTENTION_BACKWARD * attention
        head = 2 * 2 * arch.vocab_size * arch.hidden_size * self.supervised_fraction
        return forward + backward + head + (forward if checkpointing else 0)

    def _floor(self, execution: ExecutionSettings) -> float:
        return LAUNCH_SECONDS * self.arch.num_layers if self.device == "cuda" else 0.0

    def _offloaded(self, execution: ExecutionSettings) -> float:
        if execution.plugin != "zero2-offload":
            return 0.0
        adapters = trainable_parameters(
            self.arch, self.target_modules, self.config.rank, self.config.use_dora
        )
        return OFFLOADED_SECONDS * adapters / execution.devices_per_trial
