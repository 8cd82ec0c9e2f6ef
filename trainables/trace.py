"""Predicting the peak memory of training by tracing: the real loop's step on tensors without data, no GPU, no weights.

After any given operator the live bytes are a linear function of depth, where all layers are alike: so models of 4 and 5
layers are traced (under a second each), and other depths are extrapolated operator by operator. Where layers differ the
whole model is traced, a tenth of a second a layer. A storage's size is a product of the step's dimensions: so after two
traces all ranks, micro-batches, lengths and numbers of supervised positions are arithmetic (`trainables.lifetimes`), and
the peak is looked for afterwards. That is exact (tested against whole traces), also where another operator becomes the
peak. For plain Llamas `trainables.memory_model` predicts nearly the same number in closed form, in microseconds.
"""

from dataclasses import dataclass, replace
from functools import lru_cache

from trainables.layer_memory import Device
from trainables.lifetimes import Lifetimes, StepSize, second_size
from trainables.memory_model import Kind, check_possible, head_positions, per_device_batch
from trainables.model_shape import shape_of
from trainables.settings import (
    LONGEST_SHORT_ATTENTION,
    Architecture,
    ExecutionSettings,
    TrialConfig,
    TrialSpec,
)
from trainables.step_memory import PredictedMemory
from trainables.timeline import CATEGORIES, MisalignedError, Timeline, extrapolate

# In the first two layers and the last two all that lies between has its extremes, so both depths have four.
_DEPTHS = 4, 5
# What memory depends on; of the rest `_Request` has its own form.
_EXECUTION = {
    "plugin",
    "dtype",
    "devices_per_trial",
    "gradient_checkpointing",
    "reentrant_checkpointing",
    "optimizer",
    "quantize_type",
}


@dataclass(frozen=True)
class _Request:
    """All that a trace depends on and nothing else, so that requests can share one. Sizes are one device's."""

    arch: Architecture
    kind: Kind
    targets: tuple[str, ...]
    dropout: bool
    dora: bool
    accumulates: bool
    execution: ExecutionSettings
    device: Device
    size: StepSize

    def spec(self) -> TrialSpec:
        """The trial to trace. Any dropout rate needs the same memory; rates and seeds do not matter."""
        examples = self.size.examples * (2 if self.accumulates else 1)
        dropout = 0.1 if self.dropout else 0.0
        return TrialSpec(
            trial_id="trace",
            kind=self.kind,
            config=TrialConfig(rank=self.size.rank, batch_size=examples, dropout=dropout, use_dora=self.dora),
            execution=self.execution.model_copy(update={"micro_batch_size": self.size.examples}),
            target_modules=self.targets,
            rungs=(examples,),
            base_model_path="",
        )


def trace_peak(
    arch: Architecture,
    config: TrialConfig,
    execution: ExecutionSettings,
    *,
    target_modules: tuple[str, ...],
    seq_len: int,
    kind: Kind = "lora",
    supervised_fraction: float = 1.0,
    supervised_positions: int | None = None,
    device: Device = "cuda",
) -> PredictedMemory:
    """The peak memory of one device in a training step on micro-batches of full length, by tracing.

    Arguments, result and what is not in the number are those of `trainables.memory_model.predict_peak`; ``operator`` is
    the one after which the peak is reached. The first call imports torch and ColossalAI (seconds). A new target set or
    execution takes a trace, or two of shallow models; so does the second size of the step that is asked for. All others
    are arithmetic. Traces are kept in the cache folder.

    Raises:
        InputError: as `predict_peak`.
    """
    check_possible(arch, config, execution, target_modules, seq_len, kind, supervised_fraction)
    lora, per_device = kind == "lora", per_device_batch(config, execution)
    micro_batch = execution.micro_batch(per_device)
    quantize = execution.quantize and lora
    if supervised_positions is None:
        supervised_positions = micro_batch * head_positions(seq_len, supervised_fraction)
    request = _Request(
        arch=arch,
        kind=kind,
        targets=target_modules if lora else (),
        dropout=lora and config.dropout > 0,
        dora=lora and config.use_dora,
        accumulates=per_device > micro_batch,
        execution=ExecutionSettings(**execution.model_dump(include=_EXECUTION), quantize=quantize),
        device=device,
        size=StepSize(micro_batch, seq_len, supervised_positions, config.rank if lora else 1),
    )
    return _peak(request)


@lru_cache(maxsize=4096)
def _peak(request: _Request) -> PredictedMemory:
    timeline = _deep(request)
    index = int(timeline.live.sum(1).argmax())
    values = {name: round(float(v)) for name, v in zip(CATEGORIES, timeline.live[index], strict=True)}
    return PredictedMemory(**values, moment=timeline.moment(index), operator=timeline.operators[index])


def _deep(request: _Request) -> Timeline:
    """A model of any depth: where its layers are alike from two shallow ones."""
    layers, (low, high) = request.arch.num_layers, _DEPTHS
    if layers > high and shape_of(request.arch).uniform:
        try:
            return extrapolate(_at_size(request, low), _at_size(request, high), layers - low)
        except MisalignedError:
            pass
    return _at_size(request, layers)


# Where the first trace of all that differs in size only was made, and whether a second one tells all other sizes.
_first: dict[tuple[int, _Request], StepSize] = {}
_is_arithmetic: dict[tuple[int, _Request], bool] = {}


def _at_size(request: _Request, layers: int) -> Timeline:
    """The timeline with so many layers: traced the first time, afterwards worked out from two traces if possible."""
    family = layers, _of_all_sizes(request)
    first = _first.setdefault(family, request.size)
    if first == request.size:
        return _traced(request, layers).timeline
    if _is_arithmetic.setdefault(family, True):
        try:
            return _worked_out(request, layers, first).timeline
        except MisalignedError:
            _is_arithmetic[family] = False
    return _traced(request, layers).timeline


def _worked_out(request: _Request, layers: int, first: StepSize) -> Lifetimes:
    longest = next((bound for bound in _bounds(request) if first.tokens <= bound), None)
    by_rank = request.kind == "lora" and request.execution.optimizer != "adamw-8bit"
    second = second_size(first, longest, vary_tokens=not _fixes_length(request), vary_rank=by_rank)
    low, high = (_traced(replace(request, size=size), layers) for size in (first, second))
    return low.resized(high, first, second, request.size)


def _of_all_sizes(request: _Request) -> _Request:
    """What requests have in common that can be worked out from each other; the size keeps what must be the same."""
    tokens, rank = request.size.tokens, request.size.rank
    bounds = (*_bounds(request), None)
    longest = next(bound for bound in bounds if bound is None or tokens <= bound)
    # With 8-bit states small tensors keep fp32 moments, so bytes are no product of the rank.
    rank = rank if request.execution.optimizer == "adamw-8bit" else 0
    alone = int(request.size.examples == 1)  # several examples expand what they share
    return replace(request, size=StepSize(alone, tokens if _fixes_length(request) else longest or 0, 0, rank))


def _fixes_length(request: _Request) -> bool:
    """Whether layers pad or chunk the sequence (convolutions, linear attention), so that sizes are no product of it."""
    return shape_of(request.arch).is_recurrent


def _bounds(request: _Request) -> list[int]:
    """Sequence lengths beyond which attention takes other operators, ascending."""
    windows = (request.arch.config.get(name) for name in ("sliding_window", "attention_chunk_size"))
    bounds = [
        window - 1 for window in windows if isinstance(window, int)
    ]  # from the window on a mask is made
    return sorted({*bounds, *([LONGEST_SHORT_ATTENTION] if request.device == "cpu" else [])})


@lru_cache(maxsize=256)
def _traced(request: _Request, layers: int) -> Lifetimes:
    from trainables.trace_cache import kept_trace

    return kept_trace(f"{layers} layers of {request!r}", lambda: _trace(request, layers))


def _trace(request: _Request, layers: int) -> Lifetimes:
    from trainables.trace_step import StepShape, trace_step

    shape = StepShape(request.arch, layers, request.size.tokens, request.size.positions, request.device)
    return trace_step(request.spec(), shape)
