"""What `lorafront estimate` says: peak memory, LoRA beside full fine-tuning, and what fits a device."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from search.errors import InputError
from search.estimate_fit import MOST_EXAMPLES, MOST_TOKENS, what_fits
from search.estimate_result import Breakdown, EstimateResult
from trainables.memory_model import Device, Kind, PredictedMemory, per_device_batch, predict_peak
from trainables.model_shape import shape_of
from trainables.parameter_counts import count_parameters, linear_shapes, trainable_parameters
from trainables.peak import has_closed_form, predicted_peak
from trainables.settings import Architecture, ExecutionSettings, TrialConfig
from trainables.trace import trace_peak

Predict = Callable[..., PredictedMemory]
"""`trace_peak`, or `predict_peak` with the same arguments."""


@dataclass(frozen=True)
class Point:
    """What memory is predicted of; ``sets`` has the modules of every target set."""

    arch: Architecture
    config: TrialConfig
    execution: ExecutionSettings
    sets: Mapping[str, tuple[str, ...]]
    seq_len: int
    device: Device
    supervised_fraction: float

    @property
    def modules(self) -> tuple[str, ...]:
        """The modules that LoRA adapts."""
        return self.sets[self.config.targets]

    def peak(self, predict: Predict, kind: Kind = "lora") -> PredictedMemory:
        """The peak of one device."""
        return predict(
            self.arch,
            self.config,
            self.execution,
            target_modules=self.modules,
            seq_len=self.seq_len,
            kind=kind,
            supervised_fraction=self.supervised_fraction,
            device=self.device,
        )

    def peak_bytes(self) -> int:
        """LoRA's peak: of a plain Llama in closed form, else worked out from traces."""
        return self.peak(predicted_peak).peak_bytes

    def with_config(self, rank: int, targets: str) -> "Point":
        """The same with another rank and target set."""
        return replace(self, config=self.config.model_copy(update={"rank": rank, "targets": targets}))

    def with_micro_batch(self, examples: int) -> "Point":
        """The same with so many examples per device in one pass, and none accumulated."""
        batch = examples * self.execution.devices_per_trial
        return replace(
            self,
            config=self.config.model_copy(update={"batch_size": batch}),
            execution=self.execution.model_copy(update={"micro_batch_size": None}),
        )

    def breakdown(self, predict: Predict, kind: Kind, notes: list[str]) -> Breakdown:
        """The prediction, in closed form where ``predict`` cannot; ``notes`` then gets the reason."""
        try:
            memory = self.peak(predict, kind)
        except InputError:
            raise
        except Exception as error:  # of the libraries traced through: an answer within a percent beats none
            if not has_closed_form(self.arch, self.seq_len):
                raise
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            name = "LoRA" if kind == "lora" else "full fine-tuning"
            notes.append(f"{name} could not be traced, so its figures are from the closed form: {reason}")
            memory = self.peak(predict_peak, kind)
        return Breakdown(
            trainable_parameters=self.trained(kind),
            peak_bytes=memory.peak_bytes,
            moment=memory.moment,
            operator=memory.operator,
            source="closed form" if memory.operator is None else "trace",
            categories=memory.categories,
        )

    def trained(self, kind: Kind) -> int:
        """How many parameters are trained."""
        if kind == "full":
            return count_parameters(self.arch)
        return trainable_parameters(self.arch, self.modules, self.config.rank, self.config.use_dora)


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
    predict: Predict = trace_peak,
    model: str = "",
    defaults_of: str | None = None,
) -> EstimateResult:
    """The predicted peak of ``config`` and of full fine-tuning with the same batches, and what fits.

    Both are traced (see `trainables.trace`) unless ``predict`` says otherwise; what fits is searched for as
    `trainables.peak` predicts: of plain Llamas in closed form, within 0.3 % of the trace in the tested cases, of other
    families from traces. ``device_memory`` is in bytes. Full fine-tuning is never quantised. All
    figures are of one device, and devices share the batch.

    Raises:
        InputError: an unknown target set, a sequence too short, a batch that the devices cannot share, a rank beyond
            every targeted module, or lengths beyond all measure.
    """
    if config.targets not in target_modules_by_set:
        raise InputError(
            f"unknown target set {config.targets!r}; there are: {', '.join(target_modules_by_set)}"
        )
    _check_most("sequence length", seq_len, MOST_TOKENS)
    _check_most("batch size", config.batch_size, MOST_EXAMPLES)
    notes = _check_rank(arch, config.rank, target_modules_by_set[config.targets])
    point = Point(arch, config, execution, target_modules_by_set, seq_len, device, supervised_fraction)
    if device_memory is not None and shape_of(arch).is_recurrent:
        notes.append(
            "the longest sequence that fits is not looked for: these layers take other steps at every length"
        )
    if device_memory is not None and not has_closed_form(arch, seq_len):
        notes.append(
            f"what fits is shown for {config.targets} only: each target set of this family has to be traced"
        )
    lora, full = (point.breakdown(predict, kind, notes) for kind in ("lora", "full"))
    return EstimateResult(
        model=model,
        defaults_of=defaults_of,
        device=device,
        devices=execution.devices_per_trial,
        parameters=count_parameters(arch),
        config=config,
        target_modules=point.modules,
        execution=execution,
        seq_len=seq_len,
        batch_size=config.batch_size,
        micro_batch=execution.micro_batch(per_device_batch(config, execution)),
        supervised_fraction=supervised_fraction,
        lora=lora,
        full=full,
        ratio=lora.peak_bytes / full.peak_bytes,
        notes=notes,
        fit=None if device_memory is None else what_fits(point, device_memory, lora, full),
    )


def _check_most(what: str, number: int, most: int) -> None:
    if number > most:
        raise InputError(f"{what} {number} is beyond all measure: give at most {most}")


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
