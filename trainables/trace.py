"""Predicting the peak memory of training by tracing: the real loop's step on tensors without data, no GPU, no weights.

After any given operator the live bytes are a linear function of depth, of rank and of the micro-batch. So models of 4
and 5 layers are traced (under a second each), and all other depths, and all ranks and micro-batches but the first two
that are asked for, are extrapolated operator by operator; the peak is looked for afterwards. That is exact (tested
against whole traces), also where another operator becomes the peak. `trainables.memory_model` predicts the same number
in closed form, in microseconds.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

from trainables.layer_memory import Device
from trainables.memory_model import Kind, check_possible, head_positions, per_device_batch
from trainables.settings import Architecture, ExecutionSettings, TrialConfig, TrialSpec
from trainables.step_memory import PredictedMemory

if TYPE_CHECKING:
    from trainables.timeline import Timeline

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
    rank: int
    dropout: bool
    dora: bool
    micro_batch: int
    accumulates: bool
    seq_len: int
    positions: int
    execution: ExecutionSettings
    device: Device

    def spec(self) -> TrialSpec:
        """The trial to trace. Any dropout rate needs the same memory; rates and seeds do not matter."""
        examples = self.micro_batch * (2 if self.accumulates else 1)
        dropout = 0.1 if self.dropout else 0.0
        return TrialSpec(
            trial_id="trace",
            kind=self.kind,
            config=TrialConfig(rank=self.rank, batch_size=examples, dropout=dropout, use_dora=self.dora),
            execution=self.execution.model_copy(update={"micro_batch_size": self.micro_batch}),
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
    device: Device = "cuda",
) -> PredictedMemory:
    """The peak memory of one device in a training step on micro-batches of full length, by tracing.

    Arguments, result and what is not in the number are those of `trainables.memory_model.predict_peak`, but that all
    examples have the same number of supervised positions; ``operator`` is the one after which the peak is reached. The
    first call imports torch and ColossalAI (seconds). A new target set, sequence length or execution takes two traces; so
    does the second rank, and the second micro-batch. All others are arithmetic. Traces are kept in the cache folder.

    Raises:
        InputError: as `predict_peak`.
    """
    check_possible(arch, config, execution, target_modules, seq_len, kind, supervised_fraction)
    lora, per_device = kind == "lora", per_device_batch(config, execution)
    micro_batch = execution.micro_batch(per_device)
    quantize = execution.quantize and lora
    request = _Request(
        arch=arch,
        kind=kind,
        targets=target_modules if lora else (),
        rank=config.rank if lora else 1,
        dropout=lora and config.dropout > 0,
        dora=lora and config.use_dora,
        micro_batch=micro_batch,
        accumulates=per_device > micro_batch,
        seq_len=seq_len,
        positions=head_positions(seq_len, supervised_fraction),
        execution=ExecutionSettings(**execution.model_dump(include=_EXECUTION), quantize=quantize),
        device=device,
    )
    return _peak(request)


@lru_cache(maxsize=4096)
def _peak(request: _Request) -> PredictedMemory:
    from trainables.timeline import CATEGORIES

    timeline = _timeline(request)
    index = int(timeline.live.sum(1).argmax())
    values = {name: round(float(v)) for name, v in zip(CATEGORIES, timeline.live[index], strict=True)}
    return PredictedMemory(**values, moment=timeline.moment(index), operator=timeline.operators[index])


def _timeline(request: _Request) -> "Timeline":
    return _along(
        "micro_batch",
        replace(request, rank=0),
        request.micro_batch,
        lambda micro_batch: _along(
            "rank",
            replace(request, micro_batch=micro_batch),
            request.rank,
            lambda rank: _deep(replace(request, micro_batch=micro_batch, rank=rank)),
        ),
    )


# The first two values that were traced, of each dimension and for all else being equal.
_known: dict[tuple[str, _Request], list[int]] = {}


def _along(dimension: str, request: _Request, wanted: int, at: Callable[[int], "Timeline"]) -> "Timeline":
    """The timeline at ``wanted``: from those of two other values of ``dimension`` once there are two, else traced."""
    from trainables.timeline import MisalignedError, extrapolate

    if dimension == "rank" and request.execution.optimizer == "adamw-8bit":
        return at(wanted)  # small tensors keep fp32 moments, so bytes are no linear function of the rank
    known = _known.setdefault((dimension, replace(request, **{dimension: 0})), [])  # type: ignore[arg-type]
    if len(known) == 2 and wanted not in known:
        low, high = known
        try:
            return extrapolate(at(low), at(high), (wanted - low) / (high - low))
        except MisalignedError:
            return at(wanted)
    timeline = at(wanted)
    if wanted not in known:
        known.append(wanted)
    return timeline


@lru_cache(maxsize=256)
def _deep(request: _Request) -> "Timeline":
    """A model of any depth, from two shallow ones."""
    from trainables.timeline import MisalignedError, extrapolate

    layers, (low, high) = request.arch.num_layers, _DEPTHS
    if layers > high:
        try:
            return extrapolate(_shallow(request, low), _shallow(request, high), layers - low)
        except MisalignedError:
            pass
    return _shallow(request, layers)


def _shallow(request: _Request, layers: int) -> "Timeline":
    return _traced(replace(request, arch=request.arch.model_copy(update={"num_layers": layers})))


@lru_cache(maxsize=256)
def _traced(request: _Request) -> "Timeline":
    from trainables.trace_cache import kept_trace

    return kept_trace(repr(request), lambda: _trace(request))


def _trace(request: _Request) -> "Timeline":
    from trainables.trace_step import StepShape, trace_step

    shape = StepShape(
        request.arch, request.arch.num_layers, request.seq_len, request.positions, request.device
    )
    return trace_step(request.spec(), shape)
