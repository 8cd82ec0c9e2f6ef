"""The bytes that one Llama decoder layer needs in training, for backward and while it works.

The formulas follow transformers 4.51 (`modeling_llama.py`, sdpa attention) and PEFT 0.13 (`lora/layer.py`,
`lora/dora.py`) operator by operator. Symbols: T tokens in the micro-batch, h hidden size, a = heads x
head_dim, I MLP width, r rank; a linear module maps i to o features.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

from trainables.parameter_counts import LinearShape, linear_shapes
from trainables.plugin_memory import FP32_BYTES
from trainables.settings import Architecture

Device = Literal["cuda", "cpu"]

# The tensor that each linear module reads. Modules with one source can share what they save of it.
_SOURCE = {
    "q_proj": "attention input",
    "k_proj": "attention input",
    "v_proj": "attention input",
    "o_proj": "attention output",
    "gate_proj": "mlp input",
    "up_proj": "mlp input",
    "down_proj": "mlp product",
}


class LinearMemory(NamedTuple):
    """One linear module. ``saved`` lives from forward to backward, the other two while the pass is inside it.

    ``saved_for_input`` is the part of ``saved`` that only serves the gradient of the module's input.
    """

    saved: int
    saved_for_input: int
    forward: int
    backward: int


class LayerMemory(NamedTuple):
    """One layer. ``peak`` is the most that lives inside it at once, in forward or backward.

    ``unsaved_in_first`` is what the first layer need not save, because no gradient flows to frozen
    embeddings.
    """

    saved: int
    unsaved_in_first: int
    peak: int


@dataclass(frozen=True)
class LayerPass:
    """What a pass through a layer computes with.

    ``compute_bytes`` is the size of an element in matrix products (2 for bf16), ``adapter_bytes`` of an
    adapter's weight, ``stream_bytes`` of the residual stream (4 under autocast, whose norms and embeddings
    stay fp32). ``targets`` are the modules with an adapter (all seven, when ``full``). ``quantized`` adds the
    weight that is unpacked for each product.
    """

    arch: Architecture
    tokens: int
    targets: tuple[str, ...]
    rank: int
    full: bool = False
    autocast: bool = False
    compute_bytes: int = 2
    adapter_bytes: int = FP32_BYTES
    dora: bool = False
    dropout: bool = False
    checkpointing: bool = False
    quantized: bool = False
    device: Device = "cuda"

    @property
    def stream_bytes(self) -> int:
        """Bytes of an element of the residual stream."""
        return FP32_BYTES if self.autocast else self.compute_bytes

    @property
    def copies_inputs(self) -> bool:
        """Whether each adapter keeps a copy of its input: cast to fp32 by PEFT, or dropped out."""
        return not self.full and (self.adapter_bytes != self.compute_bytes or self.dropout)

    @property
    def fused(self) -> bool:
        """Whether adapters take the fused pass of `trainables.fused_adapters`."""
        return not (self.full or self.dora or self.dropout) and self.adapter_bytes != self.compute_bytes

    @property
    def norm_saved(self) -> int:
        """RMSNorm keeps its input in fp32 and a scale per token; to train its weight, its output too."""
        elements = self.tokens * self.arch.hidden_size
        return FP32_BYTES * (elements + self.tokens) + (self.stream_bytes * elements if self.full else 0)

    @property
    def attention_saved(self) -> int:
        """Query, key, value (repeated for grouped queries on a CPU) and output, an fp32 log-sum-exp per head."""
        kv_heads = self.arch.num_kv_heads if self.device == "cuda" else self.arch.num_heads
        attended = 2 * (self.arch.num_heads + kv_heads) * self.arch.head_dim
        return self.tokens * (self.compute_bytes * attended + FP32_BYTES * self.arch.num_heads)

    @cached_property
    def shapes(self) -> dict[str, LinearShape]:
        """Shapes of the seven linear modules."""
        return linear_shapes(self.arch)

    @cached_property
    def linear(self) -> dict[str, LinearMemory]:
        """All seven linear modules."""
        inputs = self._saved_inputs()
        return {name: self._linear(name, shape, inputs.get(name, 0)) for name, shape in self.shapes.items()}

    def memory(self) -> LayerMemory:
        """The whole layer."""
        attention = sum(self.linear[name].saved for name in ("q_proj", "k_proj", "v_proj", "o_proj"))
        before_mlp = 2 * self.norm_saved + self.attention_saved + attention
        mlp_saved, mlp_peak = self._mlp()
        return LayerMemory(before_mlp + mlp_saved, self._unsaved_in_first(), before_mlp + mlp_peak)

    def _saved_inputs(self) -> dict[str, int]:
        """Bytes of its input that each trained module keeps, beyond what is kept anyway.

        An fp32 adapter keeps an fp32 copy (PEFT casts its input), a dropped-out one its own copy, and
        autocast makes a copy per module of an fp32 input. Otherwise modules share their input.
        """
        saved: dict[str, int] = {}
        shared: set[str] = set()
        if self.device == "cuda" and self.compute_bytes == FP32_BYTES:
            shared.add("attention output")  # as its kernel kept it; the others' output has another layout
        for name, shape in self.shapes.items():
            source = _SOURCE[name]
            if name not in self.targets:
                continue
            elements = self.tokens * shape.inputs
            if self.copies_inputs:
                saved[name] = self.adapter_bytes * elements
            elif (self.autocast and source.endswith("input")) or source not in shared:
                saved[name] = self.compute_bytes * elements
            shared.add(source)
        return saved

    def _linear(self, name: str, shape: LinearShape, input_saved: int) -> LinearMemory:
        """One linear module, frozen or trained itself; with an adapter it needs that on top."""
        output = self.compute_bytes * self.tokens * shape.outputs
        gradients = output + self.compute_bytes * self.tokens * shape.inputs
        weight = self.compute_bytes * shape.weights
        if self.full:
            cast = weight if self.autocast else 0  # the weight's half-precision copy, then its gradient's
            return LinearMemory(input_saved + cast, 0, output, gradients + cast)
        unpacked = weight if self.quantized else 0
        if name not in self.targets:
            return LinearMemory(0, 0, output + unpacked, gradients + unpacked)
        adapter = self._dora(shape) if self.dora else self._lora(shape)
        mask = (self.adapter_bytes if self.device == "cpu" else 1) * self.tokens * shape.inputs
        mask = mask if self.dropout else 0
        return LinearMemory(
            input_saved + mask + adapter.saved,
            mask + adapter.saved_for_input,
            output + unpacked + adapter.forward + self._undropped(shape.inputs),
            output + unpacked + adapter.backward,
        )

    def _lora(self, shape: LinearShape) -> LinearMemory:
        """A kept product with A; the product with B; the gradients of both products (`fused_adapters`)."""
        sizes = shape.inputs, shape.outputs, self.rank
        entering, leaving, inner = (self.adapter_bytes * self.tokens * size for size in sizes)
        if not self.fused:  # PEFT's own pass has the scaled form beside the product
            return LinearMemory(inner, 0, 2 * leaving, max(2 * leaving, entering + inner))
        rounded = (
            self.compute_bytes * self.tokens * shape.inputs
        )  # the input's gradient, beside its fp32 form
        weights = self.adapter_bytes * self.rank * (shape.inputs + shape.outputs)  # gradients of A and B
        return LinearMemory(inner, 0, leaving, max(leaving, entering + rounded + weights) + inner)

    def _dora(self, shape: LinearShape) -> LinearMemory:
        """Also keeps the adapter's output, and that of the base weight cast to the adapter's dtype.

        Its norm is taken of weight + B A, found by sending an identity matrix through the adapter.
        """
        entering, leaving, inner = (self.tokens * size for size in (shape.inputs, shape.outputs, self.rank))
        size = self.adapter_bytes
        casts = self.quantized or size != self.compute_bytes
        kept_weight = size * shape.weights if casts else 0
        identity = shape.inputs * (shape.inputs + self.rank)
        in_norm, in_sum = 3 * shape.weights, shape.weights + 3 * leaving
        return LinearMemory(
            size * (inner + 2 * leaving) + kept_weight,
            kept_weight,
            size * (identity + max(in_norm, in_sum)),
            size * max(4 * leaving, leaving + 2 * entering),
        )

    def _mlp(self) -> tuple[int, int]:
        """Bytes saved by the MLP, and the peak over its modules. (Attention needs less while it runs.)"""
        gate, up, down = (self.linear[name] for name in ("gate_proj", "up_proj", "down_proj"))
        stream = self.stream_bytes * self.tokens * self.arch.hidden_size
        wide = self.compute_bytes * self.tokens * self.arch.intermediate_size
        saved = gate.saved + up.saved + down.saved + 3 * wide  # gate, its activation, up
        # An input that its module saves anyway does not count again.
        shared = set() if self.copies_inputs else set(self.targets)
        product = 0 if "down_proj" in shared else wide
        entering = 0 if shared & {"gate_proj", "up_proj"} and not self.autocast else stream
        flowing = entering + (
            stream + self._gradients_at_recomputation() if self.checkpointing else 2 * stream
        )
        forward = flowing + max(
            gate.saved + gate.forward,
            gate.saved + up.saved + 2 * wide + up.forward,
            saved + product + (self._recomputed_end() if self.checkpointing else down.forward),
        )
        # The residual stream's gradient is also that of the fused module's output.
        shared_gradient = stream if self.fused and "down_proj" in self.targets else 0
        backward = stream + max(
            saved + down.backward - shared_gradient,
            saved - down.saved + 3 * wide,
            gate.saved + up.saved + 2 * wide + up.backward,
        )
        return saved, max(forward, backward)

    def _gradients_at_recomputation(self) -> int:
        """Recomputing starts when backward first needs a saved tensor: these gradients exist by then."""
        gradient = self.stream_bytes
        if not (self.full or self.fused) and "down_proj" in self.targets:
            gradient += self.compute_bytes if self.adapter_bytes != self.compute_bytes else 0
            gradient += self.adapter_bytes * (2 if self.dora else 1)
        return gradient * self.tokens * self.arch.hidden_size

    def _recomputed_end(self) -> int:
        """Recomputing ends with the last tensor to save: in down_proj, in PEFT's own pass before the product with B."""
        if self.dora or (self.fused and "down_proj" in self.targets):
            return self.linear["down_proj"].forward
        undropped = self._undropped(self.arch.intermediate_size) if "down_proj" in self.targets else 0
        return self.stream_bytes * self.tokens * self.arch.hidden_size + undropped

    def _undropped(self, features: int) -> int:
        """An adapter's cast input before dropout."""
        casts = self.dropout and self.adapter_bytes != self.compute_bytes
        return self.adapter_bytes * self.tokens * features if casts else 0

    def _unsaved_in_first(self) -> int:
        """Everything in front of the first adapter, and what only serves the gradient of its input."""
        if self.full:
            return 0
        unsaved = 0
        for before, names in (
            (self.norm_saved, ("q_proj", "k_proj", "v_proj")),
            (self.attention_saved, ("o_proj",)),
            (self.norm_saved, ("gate_proj", "up_proj")),
        ):
            unsaved += before
            entered = [self.linear[name].saved_for_input for name in names if name in self.targets]
            if entered:
                return unsaved + sum(entered) + self._unsaved_in_first_mlp()
        return unsaved + self._unsaved_in_first_mlp()

    def _unsaved_in_first_mlp(self) -> int:
        """Of gate, its activation and up, a product needs the factor whose partner gets a gradient."""
        targets = set(self.targets)
        wide = self.compute_bytes * self.tokens * self.arch.intermediate_size
        if targets & {"q_proj", "k_proj", "v_proj", "o_proj"} or {"gate_proj", "up_proj"} <= targets:
            return 0
        return wide * (1 if "gate_proj" in targets else 2 if "up_proj" in targets else 3)
