"""The moments of a training step at which its memory may peak.

The largest of them is the peak: at the loss (all activations and the logits), in backward inside the last
layers or the first ones, or in the optimizer step.
"""

from dataclasses import dataclass, fields
from typing import NamedTuple

from trainables.layer_memory import LayerMemory, LayerPass
from trainables.parameter_counts import count_parameters, linear_weights
from trainables.plugin_memory import FP32_BYTES, TrainedState

INT64_BYTES = 8
# Cross-entropy in fp32: log-probabilities, the gradient with respect to them, and with respect to the logits.
LOSS_COPIES = 3
# The backward pass of RMSNorm computes with five fp32 tensors of the hidden states' shape.
NORM_BACKWARD_COPIES = 5


@dataclass(frozen=True)
class PredictedMemory:
    """Bytes on one device at the peak of a training step, by category; ``moment`` says when that is,
    and ``operator`` after which ATen operator (None where the prediction is in closed form).

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
    operator: str | None = None

    @property
    def categories(self) -> dict[str, int]:
        """Bytes per category, in the order of the fields."""
        return {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if field.type == "int" or field.type is int
        }

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


class _Gradients(NamedTuple):
    """Bytes of gradients at the loss, after the head, and before the second and the first layer's backward.

    A head's gradient that is tied waits until it can be summed with the embeddings'.
    """

    at_loss: int
    after_head: int
    before_second: int
    before_first: int


@dataclass(frozen=True)
class TrainingStep:
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
            last, second = stack + layer.saved, 2 * layer_input + layer.saved
            first = layer_input + layer.saved - layer.unsaved_in_first
        else:
            stack = last = arch.num_layers * layer.saved - layer.unsaved_in_first
            second, first = 2 * layer.saved - layer.unsaved_in_first, layer.saved - layer.unsaved_in_first
        at_norm = stack + self.layer_pass.norm_saved
        inside_layer = layer.peak - layer.saved
        norm_backward = NORM_BACKWARD_COPIES * FP32_BYTES * elements
        gradients = self._gradients()
        moments = [
            self._at("loss", gradients.at_loss, stack + self._final_saved(), logits=self._loss_bytes()),
            self._at("final norm's backward", gradients.after_head, at_norm, norm_backward),
            self._at("last layer's backward", gradients.after_head, last, inside_layer),
            self._at("second layer's backward", gradients.before_second, second, inside_layer),
            self._at("first layer's backward", gradients.before_first, first, inside_layer),
            self._at("optimizer step", state.gradients, 0, state.step_temporary),
        ]
        if self.layer_pass.full:
            moments += [
                self._end_of_autocast(gradients.at_loss, stack),
                self._heads_backward(gradients.at_loss, stack),
                self._embeddings_backward(),
            ]
        return moments

    def _gradients(self) -> _Gradients:
        everything, head = self.state.gradients, self._head_gradient()
        arch = self.layer_pass.arch
        if self.accumulating:  # everything is there from the earlier micro-batches
            with_new = everything + (head if arch.tie_word_embeddings else 0)
            return _Gradients(everything, with_new, with_new, with_new)
        if self.layer_pass.full:
            layer = everything * linear_weights(arch) // (count_parameters(arch) * arch.num_layers)
        else:
            layer = everything // arch.num_layers
        in_layers = everything - (0 if arch.tie_word_embeddings else head)
        return _Gradients(0, head, max(0, in_layers - 2 * layer), max(0, in_layers - layer))

    def _head_gradient(self) -> int:
        """Bytes of the head's gradient (the embeddings' has the same shape)."""
        elements = self.layer_pass.arch.vocab_size * self.layer_pass.arch.hidden_size
        return self.layer_pass.stream_bytes * elements if self.layer_pass.full else 0

    def _end_of_autocast(self, at_loss: int, stack: int) -> PredictedMemory:
        """Under checkpointing, autocast's cache alone keeps the half-precision weights until it is left.

        The loss is computed before: it holds the logits, their fp32 copy and the log-probabilities.
        """
        cached = self.layer_pass.autocast and self.layer_pass.checkpointing
        weights = self.layer_pass.compute_bytes * linear_weights(self.layer_pass.arch) if cached else 0
        per_logit = self.layer_pass.compute_bytes + 2 * FP32_BYTES
        logits = per_logit * self.head_positions * self.layer_pass.arch.vocab_size
        return self._at("loss", at_loss, stack + self._final_saved(), weights, logits)

    def _heads_backward(self, at_loss: int, stack: int) -> PredictedMemory:
        """The head's gradient beside the logits' one; under autocast its half-precision form instead.

        (By then the head's half-precision weight, which `_final_saved` counts, has made room for that form.)
        """
        per_logit = 0 if self.layer_pass.autocast else self.layer_pass.compute_bytes
        logits = per_logit * self.head_positions * self.layer_pass.arch.vocab_size
        gradients = at_loss + self._head_gradient()
        return self._at("head's backward", gradients, stack + self._final_saved(), logits=logits)

    def _embeddings_backward(self) -> PredictedMemory:
        """All gradients beside the hidden states'; if tied to the head, the embeddings' own and the sum of both, too."""
        tied = self.layer_pass.arch.tie_word_embeddings
        entering = self.layer_pass.stream_bytes * self.layer_pass.tokens * self.layer_pass.arch.hidden_size
        own = 2 * self._head_gradient() if tied else 0
        return self._at("embeddings' backward", self.state.gradients, 0, entering + own)

    def _at(
        self, moment: str, gradients: int, activations: int, temporary: int = 0, logits: int = 0
    ) -> PredictedMemory:
        full = self.layer_pass.full
        kept = 0 if moment == "optimizer step" else self.layer_pass.kept_by_int8()
        return PredictedMemory(
            base_weights=self.state.weights if full else self.frozen_weights,
            adapters=0 if full else self.state.weights,
            gradients=gradients + self.state.reduction_copy,
            optimizer_state=self.state.optimizer,
            activations=activations + kept + self._batch_bytes(),
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
