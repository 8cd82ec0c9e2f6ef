"""What `lorafront estimate` says: peak memory, LoRA beside full fine-tuning, and what fits a device."""

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

from search.device_memory import device_memory_bytes as device_memory_bytes
from search.device_memory import required_bytes
from search.errors import InputError
from search.estimate_table import print_estimate as print_estimate
from trainables.memory_model import Device, Kind, predict_peak
from trainables.parameter_counts import count_parameters, linear_shapes, trainable_parameters
from trainables.settings import Architecture, ExecutionSettings, TrialConfig

GRID_RANKS = (4, 8, 16, 32, 64, 128)
# Where the searches for the largest batch and sequence stop: far beyond any device.
_MOST_EXAMPLES = 2**20
_MOST_TOKENS = 2**24


class Breakdown(BaseModel):
    """A predicted peak in bytes: ``categories`` add up to ``peak_bytes``, reached at ``moment``."""

    trainable_parameters: int
    peak_bytes: int
    moment: str
    categories: dict[str, int]


class GridCell(BaseModel):
    """A LoRA config that differs from the one asked about in rank and target set only."""

    rank: int
    targets: str
    peak_bytes: int
    fits: bool


class Fit(BaseModel):
    """What fits in ``device_memory_bytes``; ``needed_bytes`` are the peak plus fragmentation and reserve.

    ``largest_micro_batch`` and ``largest_seq_len`` keep everything else as it is; None if not even the
    smallest fits. (A model's own limit on its context is not taken into account.)
    """

    device_memory_bytes: int
    needed_bytes: int
    fits: bool
    full_needed_bytes: int
    full_fits: bool
    largest_micro_batch: int | None
    largest_seq_len: int | None
    grid: list[GridCell]


class EstimateResult(BaseModel):
    """Everything that `print_estimate` shows; ``ratio`` is LoRA's peak over full fine-tuning's."""

    model_config = ConfigDict(frozen=True)

    parameters: int
    config: TrialConfig
    execution: ExecutionSettings
    seq_len: int
    micro_batch: int
    lora: Breakdown
    full: Breakdown
    ratio: float
    notes: list[str]
    fit: Fit | None = None

    def to_json(self) -> str:
        """As indented JSON."""
        return self.model_dump_json(indent=2)


class _Predictor:
    """Predictions that differ from the given point in a few fields."""

    def __init__(
        self,
        arch: Architecture,
        config: TrialConfig,
        execution: ExecutionSettings,
        sets: Mapping[str, tuple[str, ...]],
        seq_len: int,
        device: Device,
        supervised_fraction: float,
    ) -> None:
        self.arch, self.config, self.execution, self.sets = arch, config, execution, sets
        self.seq_len, self.device, self.supervised_fraction = seq_len, device, supervised_fraction

    def breakdown(self, kind: Kind = "lora", seq_len: int | None = None, **changes: Any) -> Breakdown:
        """The prediction for the point with ``changes`` to its config."""
        config, execution = self.config.model_copy(update=changes), self.execution
        modules = self.sets[config.targets]
        if "batch_size" in changes:
            execution = execution.model_copy(update={"micro_batch_size": None})
        memory = predict_peak(
            self.arch,
            config,
            execution,
            target_modules=modules,
            seq_len=seq_len or self.seq_len,
            kind=kind,
            supervised_fraction=self.supervised_fraction,
            device=self.device,
        )
        trained = (
            count_parameters(self.arch)
            if kind == "full"
            else trainable_parameters(self.arch, modules, config.rank, config.use_dora)
        )
        return Breakdown(
            trainable_parameters=trained,
            peak_bytes=memory.peak_bytes,
            moment=memory.moment,
            categories=memory.categories,
        )

    def fit(self, device_memory: int, lora: Breakdown, full: Breakdown) -> Fit:
        """What fits in ``device_memory`` bytes."""

        def fits(breakdown: Breakdown) -> bool:
            return required_bytes(breakdown.peak_bytes) <= device_memory

        ranks = sorted({*GRID_RANKS, self.config.rank})
        grid = []
        for rank in ranks:
            for targets in self.sets:
                cell = self.breakdown(rank=rank, targets=targets)
                grid.append(GridCell(rank=rank, targets=targets, peak_bytes=cell.peak_bytes, fits=fits(cell)))
        return Fit(
            device_memory_bytes=device_memory,
            needed_bytes=required_bytes(lora.peak_bytes),
            fits=fits(lora),
            full_needed_bytes=required_bytes(full.peak_bytes),
            full_fits=fits(full),
            largest_micro_batch=largest(lambda n: fits(self.breakdown(batch_size=n)), 1, _MOST_EXAMPLES),
            largest_seq_len=largest(lambda n: fits(self.breakdown(seq_len=n)), 2, _MOST_TOKENS),
            grid=grid,
        )


def estimate(
    arch: Architecture,
    config: TrialConfig,
    execution: ExecutionSettings,
    target_modules_by_set: Mapping[str, tuple[str, ...]],
    seq_len: int,
    device_memory: int | None = None,
    *,
    device: Device = "cuda",
    supervised_fraction: float = 1.0,
) -> EstimateResult:
    """The predicted peak of ``config`` and of full fine-tuning with the same batches, and what fits.

    ``device_memory`` is in bytes. Full fine-tuning is never quantised.

    Raises:
        InputError: an unknown target set, a sequence too short, or a rank beyond every targeted module.
    """
    if config.targets not in target_modules_by_set:
        raise InputError(
            f"unknown target set {config.targets!r}; there are: {', '.join(target_modules_by_set)}"
        )
    notes = _check_rank(arch, config.rank, target_modules_by_set[config.targets])
    predictor = _Predictor(
        arch, config, execution, target_modules_by_set, seq_len, device, supervised_fraction
    )
    lora, full = predictor.breakdown(), predictor.breakdown("full")
    return EstimateResult(
        parameters=count_parameters(arch),
        config=config,
        execution=execution,
        seq_len=seq_len,
        micro_batch=execution.micro_batch(config.batch_size),
        lora=lora,
        full=full,
        ratio=lora.peak_bytes / full.peak_bytes,
        notes=notes,
        fit=None if device_memory is None else predictor.fit(device_memory, lora, full),
    )


def largest(holds: Callable[[int], bool], smallest: int, most: int) -> int | None:
    """The largest number from ``smallest`` to ``most`` for which ``holds``, which is true up to some number.

    >>> largest(lambda n: n * n < 200, 1, 1000)
    14
    """
    if not holds(smallest):
        return None
    low, high = smallest, most + 1
    while high - low > 1:
        middle = (low + high) // 2 if 2 * low >= high else 2 * low
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def _check_rank(arch: Architecture, rank: int, modules: tuple[str, ...]) -> list[str]:
    """An update B A cannot have a higher rank than the weight it is added to has rows or columns."""
    shapes = linear_shapes(arch)
    limits = {name: min(shapes[name]) for name in modules if name in shapes}
    if limits and rank > max(limits.values()):
        raise InputError(
            f"rank {rank} is beyond every targeted module of this model: use at most {max(limits.values())}"
        )
    beyond = [f"{name} ({limit})" for name, limit in limits.items() if rank > limit]
    return [f"rank {rank} is more than some modules can use: {', '.join(beyond)}"] if beyond else []
