"""Who predicts memory, and of what: of trials on their real longest micro-batch, of a space on batches of full length.

Of plain Llamas in closed form (`trainables.memory_model`): on the micro-batches of the default sweep it was within 0.1 %
of what was then measured (11 trials: five target sets, DoRA, dropout, accumulation, checkpointing, full fine-tuning),
and a trace would take the driver a second or two per target set. Of every other family by tracing, which is worth that.
"""

from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

from search.config import SweepConfig
from search.longest_batch import LongestBatches, MicroBatch
from search.space import Choices
from trainables.layer_memory import Device
from trainables.memory_model import Kind
from trainables.peak import predicted_peak
from trainables.settings import Architecture, TrialConfig, TrialSpec

# The settings of a trial that move its memory, besides the target set.
_MOVES_MEMORY = ("rank", "batch_size", "dropout", "use_dora")


class TrialPredictor:
    """Predicts the peak memory of a sweep's trials on the micro-batches that they will measure."""

    def __init__(self, arch: Architecture, device: Device, batches: LongestBatches) -> None:
        self._arch, self._device, self._batches = arch, device, batches

    def bytes_of(self, spec: TrialSpec) -> int:
        """Predicted peak bytes of one device, with the execution that the spec names."""
        batch = self._batches.of(spec)
        return predicted_peak(
            self._arch,
            spec.config.model_copy(update={"batch_size": _examples_per_step(batch, spec)}),
            spec.execution.model_copy(update={"micro_batch_size": batch.examples}),
            target_modules=spec.target_modules,
            seq_len=max(2, batch.seq_len),
            kind=spec.kind,
            device=self._device,
            supervised_positions=max(1, batch.supervised_positions),
        ).peak_bytes


def _examples_per_step(batch: MicroBatch, spec: TrialSpec) -> int:
    """Of all devices, as if each had this micro-batch, or two of them where gradients accumulate."""
    return batch.examples * (2 if batch.accumulates else 1) * spec.execution.devices_per_trial


def full_length_bytes(
    config: SweepConfig,
    arch: Architecture,
    trial: TrialConfig,
    modules: tuple[str, ...],
    kind: Kind = "lora",
    device: Device | None = None,
) -> int:
    """Predicted peak bytes of one trial config on batches of full length, every position supervised."""
    return predicted_peak(
        arch,
        trial,
        config.execution,
        target_modules=modules,
        seq_len=config.data.seq_len,
        kind=kind,
        device=device or device_type(),
    ).peak_bytes


def device_type() -> Device:
    """What this machine trains on; without importing torch, as the driver's device files tell."""
    return "cuda" if Path("/dev/nvidiactl").exists() else "cpu"


def corners(config: SweepConfig, targets: Mapping[str, tuple[str, ...]]) -> list[TrialConfig]:
    """The trial configs at the ends of the dimensions that move memory, for every target set of the space."""
    dimensions = config.search_space.dimensions
    names = [name for name in _MOVES_MEMORY if name in dimensions]
    return [
        TrialConfig.model_validate({**dict(zip(names, ends, strict=True)), "targets": target_set})
        for ends in product(*(_ends(dimensions[name]) for name in names))
        for target_set in targets
    ]


def _ends(dimension: Any) -> tuple[Any, ...]:
    if isinstance(dimension, Choices):
        return tuple(dict.fromkeys((min(dimension.values), max(dimension.values))))  # type: ignore[type-var]
    low, high = (int(end) if dimension.integer else end for end in (dimension.low, dimension.high))
    return low, high


def memory_range(
    config: SweepConfig, arch: Architecture, targets: Mapping[str, tuple[str, ...]]
) -> tuple[int, int]:
    """Least and most predicted peak bytes over the corners of the space, on batches of full length.

    ``targets`` gives the modules of every target set in the space.
    """
    predictions = [
        full_length_bytes(config, arch, trial, targets[trial.targets]) for trial in corners(config, targets)
    ]
    return min(predictions), max(predictions)
