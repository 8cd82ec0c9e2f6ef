"""The records that a run folder holds: what `search` writes and `analysis` reads.

The field names are a contract with other programs (`front.json`, `trials.jsonl`): add, never rename.
"""

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Status = Literal["completed", "stopped", "infeasible", "failed", "running"]


class Record(BaseModel):
    """Base of all records. Unknown fields are kept, so that older readers pass newer files through."""

    model_config = ConfigDict(extra="allow")


class RungResult(Record):
    """What a trial measured at one rung. Losses in nats per supervised token, memory in bytes.

    ``example_losses`` are the validation examples' parts of ``eval_loss``, which is their mean. All trials of a sweep
    have the same examples in the same order, so two trials can be compared example by example.
    """

    examples_seen: int
    eval_loss: float
    eval_loss_stderr: float
    example_losses: list[float] | None = None
    train_loss: float | None = None
    train_seconds: float = 0.0


class Confirmation(Record):
    """How a config did when it was trained again with new seeds, on test examples that the search never saw.

    ``test_loss`` is the mean over the replicates, ``test_losses`` are theirs, in the order of ``seeds``.
    ``test_interval`` holds the mean with 95 % confidence, over new seeds and new examples alike; None of a single seed.
    ``failed_seeds`` are those with which training failed. ``beaten_by`` are members of the front that need no more
    memory and reach a lower test loss, beyond the 95 % interval of the difference; ``not_better_than`` are members that
    need less memory and are not told apart from this one.
    """

    seeds: list[int]
    test_loss: float
    test_interval: tuple[float, float] | None = None
    test_losses: list[float]
    tokens_per_second: list[float] = Field(default_factory=list)
    failed_seeds: list[int] = Field(default_factory=list)
    beaten_by: list[str] = Field(default_factory=list)
    not_better_than: list[str] = Field(default_factory=list)


class ExecutionVariant(Record):
    """One way to execute a trial's training: other memory and speed, the same effective batch and so the same quality.

    A LoRA trial has them, fastest first, once it is completed.
    ``micro_batch_size`` is of one device, gradients are accumulated up to the batch. ``predicted_memory_bytes`` is
    the prediction times what was measured over what was predicted of the trial's own execution (``is_own``), so
    there it is the measured peak. ``relative_speed`` is 1.0 there; ``speed_source`` says where it is from.
    """

    micro_batch_size: int
    gradient_checkpointing: bool
    plugin: str
    predicted_memory_bytes: int
    relative_speed: float
    speed_source: Literal["modelled", "measured"] = "modelled"
    is_own: bool = False


class TrialRecord(Record):
    """One trial: an element of ``trials`` in `front.json`, plus ``kind`` and its ``rungs``.

    The measured fields are None until the first rung is reached. ``checkpoint`` is the folder of the newest
    adapter checkpoint, relative to the run folder; one outside of it is never read. A ``replicate`` trains the config
    of the trial ``replicate_of`` again with another seed, and is no trial of the search. ``adopted_from`` names the
    earlier sweep and its trial that a record was taken over from. ``predicted_memory_bytes`` is what was
    predicted before the trial ran, for its longest micro-batch; a trial that was refused was judged by that
    times ``memory_correction``, where there is one. In `front.json` a confirmed trial's ``test_loss`` is the
    mean over its replicates. ``restarted`` is why a trial went on from its last rung on another worker.
    """

    trial_id: str
    kind: Literal["lora", "full", "replicate"] = "lora"
    status: Status = "running"
    on_front: bool = False
    config: dict[str, Any]
    eval_loss: float | None = None
    eval_loss_stderr: float | None = None
    test_loss: float | None = None
    test_loss_stderr: float | None = None
    test_example_losses: list[float] | None = None
    peak_memory_bytes: int | None = None
    memory_source: Literal["measured", "predicted"] | None = None
    predicted_memory_bytes: int | None = None
    memory_correction: float | None = None
    examples_seen: int = 0
    train_seconds: float = 0.0
    tokens_per_second: float | None = None
    trainable_parameters: int | None = None
    seed: int = 0
    error: str | None = None
    mlflow_run_id: str | None = None
    rungs: list[RungResult] = Field(default_factory=list)
    checkpoint: str | None = None
    replicate_of: str | None = None
    adopted_from: str | None = None
    restarted: str | None = None
    confirmation: Confirmation | None = None
    execution_variants: list[ExecutionVariant] | None = None


class Base(Record):
    """The untouched model's loss on the validation split, and its examples' parts of it (see `RungResult`).

    The same on the test split where it was asked for.
    """

    eval_loss: float
    eval_loss_stderr: float
    example_losses: list[float] | None = None
    test_loss: float | None = None
    test_loss_stderr: float | None = None
    test_example_losses: list[float] | None = None


class Baseline(Record):
    """Full fine-tuning on the same data and resource."""

    kind: Literal["full"] = "full"
    eval_loss: float
    peak_memory_bytes: int
    train_seconds: float
    tokens_per_second: float
    test_loss: float | None = None
    test_example_losses: list[float] | None = None


class Headline(Record):
    """The three measured claims for one trial against full fine-tuning.

    ``retention`` = (base loss - trial loss) / (base loss - baseline loss); None when the baseline did not
    improve on the base. ``memory_ratio`` = trial / baseline peak bytes; ``speedup`` = trial / baseline tokens
    per second of training. Where full fine-tuning was not run, only ``memory_ratio`` is known, and ``memory_source``
    says that its denominator is predicted.

    Of a confirmed trial there are also ``test_retention``, the mean over its replicates on the test split, and 95 %
    intervals: of that (None of a single replicate), and of the speed-up's mean over the trial and its replicates.
    """

    retention: float | None
    memory_ratio: float
    speedup: float | None
    trial_id: str
    memory_source: Literal["measured", "predicted"] = "measured"
    test_retention: float | None = None
    test_retention_interval: tuple[float, float] | None = None
    speedup_interval: tuple[float, float] | None = None


class Objective(Record):
    """One minimised or maximised quantity."""

    name: str
    direction: Literal["min", "max"] = "min"


class MemoryPrediction(Record):
    """How well the memory of ``trials`` measured LoRA trials was predicted before they ran.

    Errors are |predicted / measured - 1|, as shares. ``correction`` is the median of measured / predicted.
    """

    trials: int
    median_error: float
    largest_error: float
    correction: float


class Front(Record):
    """The content of `front.json`.

    ``headline`` is the knee's; ``headlines`` has those of the ``knee``, the best ``quality`` and the least ``memory``.
    ``predicted_full_memory_bytes`` is what full fine-tuning needs by prediction, run or not. ``memory_prediction`` is
    None while nothing is measured.
    """

    schema_version: int = Field(1, alias="schema", serialization_alias="schema")
    name: str
    size: str
    created: str
    finished: bool
    objectives: list[Objective] = Field(
        default_factory=lambda: [Objective(name="eval_loss"), Objective(name="peak_memory_bytes")]
    )
    reference_point: dict[str, float]
    hypervolume: float
    base: Base | None = None
    baseline: Baseline | None = None
    headline: Headline | None = None
    headlines: dict[str, Headline] = Field(default_factory=dict)
    predicted_full_memory_bytes: int | None = None
    memory_prediction: MemoryPrediction | None = None
    trials: list[TrialRecord]

    model_config = ConfigDict(extra="allow", populate_by_name=True)


class Event(Record):
    """One line of `trials.jsonl`.

    ``event`` is ``sweep`` (once per launch or resume: versions, machine, reference point), ``base``
    (the untouched model's loss), or about one trial: ``started``, ``result`` (a rung was reached),
    ``checkpoint``, ``ended`` (final status). Trial events carry the whole `TrialRecord` as it then stands, so
    that the newest line of a trial is all there is to know about it.
    """

    event: Literal["sweep", "base", "started", "result", "checkpoint", "ended"]
    time: str
    trial: TrialRecord | None = None
    base: Base | None = None
    sweep: dict[str, Any] | None = None


class RunPaths:
    """The fixed file names inside a run folder."""

    def __init__(self, run_dir: str | Path) -> None:
        self.root = Path(run_dir)
        self.sweep_yaml = self.root / "sweep.yaml"
        self.trials_jsonl = self.root / "trials.jsonl"
        self.front_json = self.root / "front.json"
        self.report_html = self.root / "report.html"
        self.front_png = self.root / "front.png"
        self.optuna_db = self.root / "optuna.db"
        self.mlflow_db = self.root / "mlflow.db"
        self.mlartifacts = self.root / "mlartifacts"
        self.tune = self.root / "tune"
