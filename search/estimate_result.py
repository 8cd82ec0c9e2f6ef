"""What an estimate holds, as `lorafront estimate --format json` prints it: bytes of one device, lengths in tokens."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

from search.device_memory import FRAGMENTATION, RESERVE_BYTES
from trainables.layer_memory import Device
from trainables.settings import ExecutionSettings, TrialConfig

UNITS = {
    "*_bytes": "bytes of one device",
    "categories": "bytes of one device",
    "seq_len": "tokens",
    "largest_seq_len": "tokens",
    "batch_size": "examples per optimizer step, of all devices together",
    "micro_batch": "examples per forward pass of one device",
    "largest_micro_batch": "examples per forward pass of one device",
    "supervised_fraction": "share of the positions",
    "ratio": "LoRA's peak_bytes / full fine-tuning's",
}


class Breakdown(BaseModel):
    """A predicted peak in bytes of one device: ``categories`` add up to ``peak_bytes``.

    It is reached at ``moment``, after the ATen ``operator``, which only a trace knows. ``source`` says how it was found.
    """

    trainable_parameters: int
    peak_bytes: int
    moment: str
    operator: str | None
    source: Literal["trace", "closed form"]
    categories: dict[str, int]


class GridCell(BaseModel):
    """A LoRA config that differs from the one asked about in rank and target set only."""

    rank: int
    targets: str
    peak_bytes: int
    fits: bool


class Fit(BaseModel):
    """What fits in ``device_memory_bytes``; ``needed_bytes`` are the peak plus fragmentation and reserve.

    ``largest_micro_batch`` (without accumulation) and ``largest_seq_len`` keep everything else as it is; None if not
    even the smallest fits, and of the length where it was not looked for (a note says so). A model's own limit on its
    context is not taken into account. They and the grid are from `trainables.peak`: of plain Llamas the closed form,
    within 0.3 % of the trace in the tested cases.
    """

    device_memory_bytes: int
    fragmentation_factor: float = FRAGMENTATION
    reserve_bytes: int = RESERVE_BYTES
    needed_bytes: int
    fits: bool
    full_needed_bytes: int
    full_fits: bool
    largest_micro_batch: int | None
    largest_seq_len: int | None
    grid: list[GridCell]


class EstimateResult(BaseModel):
    """Everything that an estimate says. All figures are of one of the ``devices``, which share the batch.

    ``model`` is what was asked for, ``defaults_of`` the size whose settings fill in what was not given, ``device`` the
    kind of device.
    """

    model_config = ConfigDict(frozen=True)

    model: str
    defaults_of: str | None
    device: Device
    devices: int
    parameters: int
    config: TrialConfig
    target_modules: tuple[str, ...]
    execution: ExecutionSettings
    seq_len: int
    batch_size: int
    micro_batch: int
    supervised_fraction: float
    lora: Breakdown
    full: Breakdown
    ratio: float
    notes: list[str]
    fit: Fit | None = None
    units: dict[str, str] = UNITS

    def to_json(self) -> str:
        """As indented JSON."""
        return self.model_dump_json(indent=2)
