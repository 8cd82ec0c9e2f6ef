"""Predicting the peak memory of training in closed form: microseconds a call, no torch, no GPU.

The peak is the largest of a few moments of a training step: the loss (all activations and the logits),
backward inside the last or the first layer, and the optimizer step. The tests compare it with counted bytes.
"""

from dataclasses import dataclass, fields
from typing import Literal

from search.errors import InputError
from trainables.layer_memory import LayerMemory, LayerPass, linear_shapes
from trainables.plugin_memory import DTYPE_BYTES, FP32_BYTES, Device, TrainedState, trained_state
from trainables.settings import Architecture, ExecutionSettings, TrialConfig

Kind = Literal["lora", "full"]

INT64_BYTES = 8
# 4-bit NormalFloat with double quantisation: 4 + 8/64 + 32/(64 * 256) bits per weight (QLoRA, arXiv
# 2305.14314, §3).
NF4_BITS = 4 + 8 / 64 + 32 / (64 * 256)
# Cross-entropy in fp32: log-probabilities, the gradient with respect to them, and with respect to the logits.
LOSS_COPIES = 3
# The backward pass of RMSNorm computes with five fp32 tensors of the hidden states' shape.
NORM_BACKWARD_COPIES = 5


def count_parameters(arch: Architecture) -> int:
    """Parameters of the whole model; tied embeddings count once."""
    embeddings = arch.vocab_size * arch.hidden_size * (1 if arch.tie_word_embeddings else 2)
    return embeddings + _linear_weights(arch) + (2 * arch.num_layers + 1) * arch.hidden_size


def trainable_parameters(
    arch: Architecture, target_modules: tuple[str, ...], rank: int, use_dora: bool
) -> int:
    """Parameters of the adapters: r (i + o) per targeted module, and with DoRA a magnitude per output.

    Raises:
        InputError: a target is not a linear module of a Llama layer.
    """
    shapes = linear_shapes(arch)
    for name in target_modules:
        if name not in shapes:
            raise InputError(
                f"target module {name!r} is not a linear module of a Llama layer: {', '.join(shapes)}"
            )
    targeted = [shapes[name] for name in target_modules]
    magnitudes = sum(shape.outputs for shape in targeted) if use_dora else 0
    return arch.num_layers * (rank * sum(shape.inputs + shape.outputs for shape in targeted) + magnitudes)


@dataclass(frozen=True)
class PredictedMemory:
    """Bytes on one device at the peak of a training step, by category; ``moment`` says when that is.

    ``base_weights`` are all weights that are not adapters. ``gradients`` include the flat copy in which DDP
    and ZeRO reduce them. ``optimizer_state`` includes fp32 master weights where the plugin keeps them.
    ``activations`` are the batch and what the layers keep for backward (under autocast also half-precision
    copies of the weights). ``temporary`` is what lives only during the moment.
    """

    base_weights: int
    adapters: int
    gradients: int
    optimizer_state: int
    activations: int
    logits_and_loss: int
    temporary: int
    moment: str

    @property
    def categories(self) -> dict[str, int]:
        """Bytes per category, in the order of the fields."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name != "moment"}

    @property
    def peak_bytes(self) -> int:
        """The sum of all categories."""
        return (
            self.base_weights
            + self.adapters
            + self.gradients
            + self.optimizer_state
            + self.activations
            + self.logits_and_loss
            + self.temporary
        )


def predict_peak(
    arch: Architecture,
    config: TrialConfig,
    execution: ExecutionSettings,
    *,
    target_modules: tuple[str, ...],
    seq_len: int,
    kind: Kind = "lora",
    supervised_fraction: float = 1.0,
    device: Device = "cuda",
) -> PredictedMemory:
    """The peak memory of one device in a training step on micro-batches of full length.

    Assumes what the training loop does: AdamW; the head only at supervised positions, a
    ``supervised_fraction`` of all; scaled-dot-product attention without a mask; no key-value cache; Adam's
    states exist (the second step or later). With the ``ddp`` plugin adapters are fp32, and full fine-tuning
    trains fp32 weights under autocast; the other plugins train weights of ``execution.dtype`` with fp32
    master copies. Not in the number: allocator rounding and fragmentation, CUDA context, NCCL and cuBLAS
    workspaces.

    Raises:
        InputError: ``seq_len``, ``supervised_fraction`` or a target module is impossible.
    """
    if seq_len < 2:
        raise InputError(
            f"sequence length {seq_len} is too short: it takes 2 tokens, one to predict the other"
        )
    if kind == "lora" and not target_modules:
        raise InputError("no target module: LoRA would train nothing")
    if not 0 < supervised_fraction <= 1:
        raise InputError(f"supervised fraction {supervised_fraction} is not above 0 and at most 1")
    full, examples = kind == "full", execution.micro_batch(config.batch_size)
    if full:
        trained, largest = count_parameters(arch), arch.vocab_size * arch.hidden_size
    else:
        trained = trainable_parameters(arch, target_modules, config.rank, config.use_dora)
        largest = config.rank * max(arch.hidden_size, arch.intermediate_size)
    layer_pass = _layer_pass(arch, config, execution, target_modules, examples * seq_len, full, device)
    step = _Step(
        layer_pass,
        layer_pass.memory(),
        trained_state(execution, trained, largest, device),
        frozen_weights=0 if full else _frozen_weights(arch, execution),
        # A label is the next token, so the last position of a sequence has none.
        head_positions=examples * max(1, min(seq_len - 1, round(seq_len * supervised_fraction))),
        accumulating=examples < config.batch_size,
    )
    return max(step.moments(), key=lambda memory: memory.peak_bytes)


def _layer_pass(
    arch: Architecture,
    config: TrialConfig,
    execution: ExecutionSettings,
    target_modules: tuple[str, ...],
    tokens: int,
    full: bool,
    device: Device,
) -> LayerPass:
    compute_bytes = DTYPE_BYTES[execution.dtype]
    return LayerPass(
        arch=arch,
        tokens=tokens,
        targets=tuple(linear_shapes(arch)) if full else target_modules,
        rank=config.rank,
        full=full,
        autocast=full and execution.plugin == "ddp" and execution.dtype != "fp32",
        compute_bytes=compute_bytes,
        adapter_bytes=FP32_BYTES if execution.plugin == "ddp" else compute_bytes,
        dora=config.use_dora and not full,
        dropout=config.dropout > 0 and not full,
        checkpointing=execution.gradient_checkpointing,
        quantized=execution.quantize and not full,
        device=device,
    )


def _linear_weights(arch: Architecture) -> int:
    return arch.num_layers * sum(shape.weights for shape in linear_shapes(arch).values())


def _frozen_weights(arch: Architecture, execution: ExecutionSettings) -> int:
    """The base model: linear modules in 4 bits when quantised; embeddings, head and norms in the dtype."""
    parameters, dtype_bytes = count_parameters(arch), DTYPE_BYTES[execution.dtype]
    if not execution.quantize:
        return parameters * dtype_bytes
    linear = _linear_weights(arch)
    return round(linear * NF4_BITS / 8) + (parameters - linear) * dtype_bytes


@dataclass(frozen=True)
class _Step:
    """One training step, and the moments at which its memory may peak."""

    layer_pass: LayerPass
    layer: LayerMemory
    state: TrainedState
    frozen_weights: int
    head_positions: int
    accumulating: bool

    def moments(self) -> list[PredictedMemory]:
        """Every candidate for the peak."""
        arch, layer, state = self.layer_pass.arch, self.layer, self.state
        elements = self.layer_pass.tokens * arch.hidden_size
        layer_input = self.layer_pass.stream_bytes * elements
        if self.layer_pass.checkpointing:
            stack = arch.num_layers * layer_input  # and one layer's inside while it is recomputed
            last, first = stack + layer.saved, layer_input + layer.saved
        else:
            stack = last = arch.num_layers * layer.saved - layer.unsaved_in_first
            first = layer.saved - layer.unsaved_in_first
        inside_layer = layer.peak - layer.saved
        norm_backward = NORM_BACKWARD_COPIES * FP32_BYTES * elements
        at_loss, after_head, before_first = self._gradients()
        moments = [
            self._at("loss", at_loss, stack + self._final_saved(), logits=self._loss_bytes()),
            self._at("final norm's backward", after_head, stack + self.layer_pass.norm_saved, norm_backward),
            self._at("last layer's backward", after_head, last, inside_layer),
            self._at("first layer's backward", before_first, first, inside_layer),
            self._at("optimizer step", state.gradients, 0, state.step_temporary),
        ]
        if self.layer_pass.full:
            moments += [self._heads_backward(at_loss, stack), self._embeddings_backward()]
        return moments

    def _gradients(self) -> tuple[int, int, int]:
        """Bytes of gradients at the loss, before the last layer's backward, and before the first layer's.

        Accumulating, all are there from the earlier micro-batches. The head's new one, if tied, waits beside
        them until it can be summed with the embeddings'.
        """
        everything, arch = self.state.gradients, self.layer_pass.arch
        tied_head = self._head_gradient() if arch.tie_word_embeddings else 0
        if self.accumulating:
            return everything, everything + tied_head, everything + tied_head
        if not self.layer_pass.full:
            return 0, 0, everything - everything // arch.num_layers
        layer = everything * _linear_weights(arch) // (count_parameters(arch) * arch.num_layers)
        untied_embeddings = 0 if arch.tie_word_embeddings else self._head_gradient()
        return 0, self._head_gradient(), max(0, everything - layer - untied_embeddings)

    def _head_gradient(self) -> int:
        """Bytes of the head's gradient (the embeddings' has the same shape)."""
        elements = self.layer_pass.arch.vocab_size * self.layer_pass.arch.hidden_size
        return self.layer_pass.stream_bytes * elements if self.layer_pass.full else 0

    def _heads_backward(self, at_loss: int, stack: int) -> PredictedMemory:
        """The head's gradient beside the logits' one; under autocast its half-precision form instead.

        (By then the head's half-precision weight, which `_final_saved` counts, has made room for that form.)
        """
        per_logit = 0 if self.layer_pass.autocast else self.layer_pass.compute_bytes
        logits = per_logit * self.head_positions * self.layer_pass.arch.vocab_size
        gradients = at_loss + self._head_gradient()
        return self._at("head's backward", gradients, stack + self._final_saved(), logits=logits)

    def _embeddings_backward(self) -> PredictedMemory:
        """If tied to the head: the embeddings' gradient and its sum with the head's, beside all gradients."""
        tied = self.layer_pass.arch.tie_word_embeddings
        return self._at(
            "embeddings' backward", self.state.gradients, 0, 2 * self._head_gradient() if tied else 0
        )

    def _at(
        self, moment: str, gradients: int, activations: int, temporary: int = 0, logits: int = 0
    ) -> PredictedMemory:
        full = self.layer_pass.full
        return PredictedMemory(
            base_weights=self.state.weights if full else self.frozen_weights,
            adapters=0 if full else self.state.weights,
            gradients=gradients + self.state.reduction_copy,
            optimizer_state=self.state.optimizer,
            activations=activations + self._batch_bytes(),
            logits_and_loss=logits,
            temporary=temporary,
            moment=moment,
        )

    def _batch_bytes(self) -> int:
        """Token ids and mask; positions and labels of the head."""
        return 2 * INT64_BYTES * (self.layer_pass.tokens + self.head_positions)

    def _final_saved(self) -> int:
        """The final norm's and, if it is trained, the head's inputs and half-precision weight."""
        arch, norm = self.layer_pass.arch, self.layer_pass.norm_saved
        if not self.layer_pass.full:
            return norm
        weight = arch.vocab_size * arch.hidden_size if self.layer_pass.autocast else 0
        return norm + self.layer_pass.compute_bytes * (self.head_positions * arch.hidden_size + weight)

    def _loss_bytes(self) -> int:
        return LOSS_COPIES * FP32_BYTES * self.head_positions * self.layer_pass.arch.vocab_size
