"""The bytes that one Llama decoder layer needs in training, for backward and while it works.

The formulas follow transformers 5.24 (`modeling_llama.py`, sdpa attention), PEFT 0.21 (`lora/layer.py`, `lora/dora.py`,
`lora/bnb.py`) and bitsandbytes 0.50 operator by operator. Symbols: T tokens in the micro-batch, h hidden size, a = heads
x head_dim, I MLP width, r rank; a linear module maps i to o features.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

from trainables.parameter_counts import LinearShape, linear_shapes
from trainables.plugin_memory import FP32_BYTES
from trainables.settings import Architecture, Precision

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

    ``saved_for_input`` is the part of ``saved`` that only serves the gradient of the module's input. ``recomputed`` is
    ``forward`` up to the last tensor that is saved, where checkpointing stops if nothing after the module saves one.
    """

    saved: int
    saved_for_input: int
    forward: int
    backward: int
    recomputed: int


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
    weight that is unpacked for each product. ``is_single`` says that the micro-batch is one example.
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
    quantized: Precision | None = None
    device: Device = "cuda"
    is_single: bool = False

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
        """Whether adapters take the fused pass of `trainables.fused_adapters`, as fp32 ones do on a CPU."""
        plain = not (self.full or self.dora or self.dropout or self.quantized)
        return plain and self.device == "cpu" and self.adapter_bytes != self.compute_bytes

    @property
    def norm_saved(self) -> int:
        """RMSNorm keeps its input in fp32 and a scale per token; to train its weight, its output too."""
        elements = self.tokens * self.arch.hidden_size
        return FP32_BYTES * (elements + self.tokens) + (self.stream_bytes * elements if self.full else 0)

    def kept_by_int8(self) -> int:
        """What 8-bit modules keep of all layers until the whole backward pass is over, also under checkpointing.

        Their inputs: bitsandbytes 0.50 (`autograd/_functions.py`) ties them to the graph's nodes. The first layer's
        modules in front of the first adapter have none.
        """
        if self.quantized != "int8":
            return 0
        arch, targets = self.arch, set(self.targets)
        attended, hidden = arch.num_heads * arch.head_dim, arch.hidden_size
        shares = self.device == "cuda" and not self.checkpointing  # attention has kept its output anyway
        inputs = (hidden, 0 if shares else attended, hidden, arch.intermediate_size)
        readers = ({"q_proj", "k_proj", "v_proj"}, {"o_proj"}, {"gate_proj", "up_proj"}, {"down_proj"})
        first = next(index for index, names in enumerate(readers) if names & targets)
        features = arch.num_layers * sum(inputs) - sum(inputs[: first + 1])
        return self.compute_bytes * self.tokens * features

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
        peak = max(before_mlp + mlp_peak, self._attention_forward())
        return LayerMemory(before_mlp + mlp_saved, self._unsaved_in_first(), peak)

    def _saved_inputs(self) -> dict[str, int]:
        """Bytes of its input that each trained module keeps, beyond what is kept anyway.

        An fp32 adapter keeps an fp32 copy (PEFT casts its input), a dropped-out one its own copy, and
        autocast makes a copy per module of an fp32 input. Otherwise modules share their input.
        """
        saved: dict[str, int] = {}
        shared: set[str] = set()
        if self.device == "cuda" and (self.compute_bytes == FP32_BYTES or self.is_single):
            shared.add("attention output")  # as its kernel kept it; of several examples it has another layout
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
        inputs = self.compute_bytes * self.tokens * shape.inputs
        weight = self.compute_bytes * shape.weights
        if self.full:
            cast = weight if self.autocast else 0  # the weight's half-precision copy, then its gradient's
            return LinearMemory(input_saved + cast, 0, output, output + inputs + cast, output)
        unpacked = self._unpacked(shape)
        entered_with = (
            0 if self.quantized == "nf4" and self.device == "cpu" else unpacked
        )  # inside one operator
        if name not in self.targets:
            # Quantised modules save nothing that checkpointing would have to compute again.
            recomputed = -self._product(name) if self.quantized else output
            unpacking = output + (weight if unpacked else 0) + max(inputs, unpacked - weight)
            return LinearMemory(0, 0, output + entered_with, unpacking, recomputed)
        adapter = self._dora(shape) if self.dora else self._lora(shape)
        mask = (self.adapter_bytes if self.device == "cpu" else 1) * self.tokens * shape.inputs
        mask = mask if self.dropout else 0
        # DoRA keeps the base's output, unless dropout comes between.
        entered = 0 if self.dora and not self.dropout else output
        undropped = self._undropped(shape.inputs)
        saved = input_saved + mask + adapter.saved
        # The base's pass comes first, and last in backward: with the gradients of A and B, and twice that of the input.
        gradients = self.adapter_bytes * self.rank * (shape.inputs + shape.outputs)
        gradients += 2 * inputs
        unpacking = weight + gradients - saved if unpacked else 0
        return LinearMemory(
            saved,
            mask + adapter.saved_for_input,
            max(entered + adapter.forward + undropped, output + entered_with - saved),
            output + max(adapter.backward, unpacking),
            entered + adapter.recomputed + undropped,
        )

    def _unpacked(self, shape: LinearShape) -> int:
        """The quantised weight in the compute dtype, and a 4-bit one's scales (one per 64 weights) in fp32."""
        scales = FP32_BYTES * -(-shape.weights // 64) if self.quantized == "nf4" else 0
        return self.compute_bytes * shape.weights + scales if self.quantized else 0

    def _entered_with(self, shape: LinearShape) -> int:
        """What the quantised product needs beside its output: nothing that is seen where all is inside one operator."""
        if self.quantized == "nf4" and self.device == "cpu":
            return 0
        if self.quantized == "int8" and self.device == "cuda":  # the input in 8 bits, the product in 32
            return self.tokens * (shape.inputs + FP32_BYTES * shape.outputs)
        return self._unpacked(shape)

    def _product(self, name: str) -> int:
        """The MLP's product, which is only computed again for a module that keeps it."""
        wide = self.compute_bytes * self.tokens * self.arch.intermediate_size
        return wide if name == "down_proj" else 0

    def _lora(self, shape: LinearShape) -> LinearMemory:
        """A kept product with A; the product with B; the gradients of both products (`fused_adapters`)."""
        sizes = shape.inputs, shape.outputs, self.rank
        entering, leaving, inner = (self.adapter_bytes * self.tokens * size for size in sizes)
        if not self.fused:  # PEFT's own pass has the scaled form beside the product
            return LinearMemory(inner, 0, 2 * leaving, max(2 * leaving, entering + inner), 0)
        rounded = (
            self.compute_bytes * self.tokens * shape.inputs
        )  # the input's gradient, beside its fp32 form
        weights = self.adapter_bytes * self.rank * (shape.inputs + shape.outputs)  # gradients of A and B
        return LinearMemory(inner, 0, leaving, max(leaving, entering + rounded + weights) + inner, leaving)

    def _dora(self, shape: LinearShape) -> LinearMemory:
        """Also keeps the adapter's output and the base's, which under dropout is computed anew in the adapter's dtype.

        Its norm is taken of weight + B A, found by sending an identity matrix through the adapter; that, the product and
        the base weight in the adapter's dtype live until the module is left.
        """
        entering, leaving, inner = (
            self.adapter_bytes * self.tokens * features
            for features in (shape.inputs, shape.outputs, self.rank)
        )
        output = self.compute_bytes * self.tokens * shape.outputs
        weight = self.adapter_bytes * shape.weights
        casts = self.quantized or self.adapter_bytes != self.compute_bytes
        kept_weight = weight if casts and self.dropout else 0
        scales = 3 * self.adapter_bytes * shape.outputs  # the norm, magnitude over norm, and that less one
        saved = inner + leaving + scales + (leaving + kept_weight if self.dropout else output)
        held = self.adapter_bytes * shape.inputs * (shape.inputs + self.rank) + weight
        held += weight if casts else 0
        in_norm = held + 2 * weight - (saved if self.dropout else saved - output)
        in_sum = held - kept_weight + 3 * leaving
        cast_gradient = leaving if self.adapter_bytes != self.compute_bytes else 0
        return LinearMemory(
            saved,
            kept_weight,
            max(in_norm, in_sum),
            max(cast_gradient + 3 * leaving, leaving + 2 * entering if self.dropout else entering),
            max(in_norm, held - kept_weight + leaving),
        )

    def _attention_forward(self) -> int:
        """The peak over attention's modules, which is the layer's where DoRA sends an identity matrix through them."""
        stream = self.stream_bytes * self.tokens * self.arch.hidden_size
        # The normed input, and without checkpoints (which hold it) the layer's, and the embeddings.
        live = self.norm_saved + stream
        live += self._gradients_at_recomputation() if self.checkpointing else 2 * stream
        saved = outputs = peak = 0
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            module, output = self.linear[name], self.compute_bytes * self.tokens * self.shapes[name].outputs
            if (
                name == "o_proj"
            ):  # a CPU's attention keeps copies of what enters, and its output is copied, too
                copied = outputs + self.compute_bytes * self.tokens * self.shapes[name].inputs
                outputs = self.attention_saved + (copied if self.device == "cpu" else 0)
            peak = max(peak, live + saved + outputs + module.saved + module.forward)
            saved, outputs = saved + module.saved, outputs + output
        return peak

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
        if self.quantized == "int8":  # keeps all inputs, those of a recomputed layer once more
            attended = self.compute_bytes * self.tokens * self.arch.num_heads * self.arch.head_dim
            again = stream + (
                attended if self.device == "cpu" else 0
            )  # CUDA's attention keeps its output anyway
            product, entering = (wide, stream + again) if self.checkpointing else (0, 0)
        # The layer's input, and the embeddings, which the model's own forward holds.
        around = self._gradients_at_recomputation() if self.checkpointing else 2 * stream
        flowing = entering + stream + around
        forward = flowing + max(
            gate.saved + gate.forward,
            gate.saved + up.saved + 2 * wide + up.forward,
            saved + product + (down.recomputed if self.checkpointing else down.forward),
        )
        adapted = "down_proj" in self.targets
        # The residual stream's gradient is also that of the module's output, where no sum in fp32 comes between.
        shares = self.fused if adapted and not (self.quantized and not self.dora) else bool(self.quantized)
        below = saved + down.backward - (stream if shares else 0)
        if self.quantized and self.checkpointing and not adapted:
            below = 0  # it needed nothing to be computed again
        backward = stream + max(
            below, saved - down.saved + 3 * wide, gate.saved + up.saved + 2 * wide + up.backward
        )
        return saved, max(forward, backward)

    def _gradients_at_recomputation(self) -> int:
        """Recomputing starts when backward first needs a saved tensor: these gradients exist by then."""
        hidden, adapted = self.arch.hidden_size, "down_proj" in self.targets
        gradient = self.stream_bytes * hidden
        if self.quantized and not adapted:  # its pass keeps nothing
            gradient += self.compute_bytes * self.arch.intermediate_size
        elif adapted and not (self.full or self.fused):
            in_fp32 = self.adapter_bytes != self.compute_bytes and not (self.quantized and not self.dora)
            gradient += self.compute_bytes * hidden if in_fp32 else 0
            gradient += self.adapter_bytes * hidden * (2 if self.dora else 1)
        return gradient * self.tokens

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
