"""What one trial is told: light, serialisable settings. Importing this costs no torch."""

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

PLUGINS = ("ddp", "zero1", "zero2", "zero2-offload", "hybrid")
Precision = Literal["nf4", "int8"]
PluginName = Literal["ddp", "zero1", "zero2", "zero2-offload", "hybrid"]


class Settings(BaseModel):
    """Base of all settings: unknown keys are errors, values cannot change after checking."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Architecture(Settings):
    """The shape of a Llama-family model: what the memory model and the target-set check need."""

    hidden_size: int = Field(gt=0)
    intermediate_size: int = Field(gt=0)
    num_layers: int = Field(gt=0)
    num_heads: int = Field(gt=0)
    num_kv_heads: int = Field(gt=0)
    head_dim: int = Field(gt=0)
    vocab_size: int = Field(gt=0)
    tie_word_embeddings: bool

    @classmethod
    def from_model_config(cls, config: dict[str, Any]) -> Self:
        """From the dictionary in a model's ``config.json`` (Hugging Face names).

        Raises:
            KeyError: the file lacks a field every Llama-family model has.
        """
        heads = config["num_attention_heads"]
        return cls(
            hidden_size=config["hidden_size"],
            intermediate_size=config["intermediate_size"],
            num_layers=config["num_hidden_layers"],
            num_heads=heads,
            num_kv_heads=config.get("num_key_value_heads") or heads,
            head_dim=config.get("head_dim") or config["hidden_size"] // heads,
            vocab_size=config["vocab_size"],
            tie_word_embeddings=bool(config.get("tie_word_embeddings", False)),
        )


class TrialConfig(Settings):
    """The searched part of a trial. One object per trial; equal objects are the same config.

    ``rank`` is r and ``alpha`` the scaling numerator of the LoRA paper (arXiv 2106.09685): an adapter adds
    ``alpha / rank * B A x`` (``alpha / sqrt(rank)`` with ``use_rslora``, arXiv 2312.03732). ``batch_size`` is
    the effective one: examples per optimizer step. ``targets`` names a target set.
    """

    rank: int = Field(8, ge=1, le=4096)
    alpha: float = Field(16.0, gt=0)
    targets: str = "all-linear"
    learning_rate: float = Field(1e-3, gt=0, le=1)
    batch_size: int = Field(4, ge=1)
    dropout: float = Field(0.0, ge=0, lt=1)
    weight_decay: float = Field(0.0, ge=0)
    warmup_ratio: float = Field(0.1, ge=0, lt=1)
    use_rslora: bool = False
    use_dora: bool = False
    init: Literal["default", "pissa"] = "default"

    @model_validator(mode="after")
    def _pissa_and_dora_exclude_each_other(self) -> Self:
        if self.init == "pissa" and self.use_dora:
            raise ValueError(
                "init=pissa and use_dora=true cannot be combined: the exported adapter would not be exact"
            )
        return self


class ExecutionSettings(Settings):
    """How a trial is executed: what changes memory and speed but, up to rounding, not quality.

    ``micro_batch_size`` caps the examples per forward pass; gradients are accumulated up to the config's
    ``batch_size``, which the trial's devices share equally. Checkpoints that are not re-entrant stop recomputing
    early and need less memory. ``optimizer`` "adamw-8bit" (bitsandbytes, CUDA only) keeps Adam's moments in 8 bits,
    which is no longer quite the same training. ``quantize`` holds the base's linear modules as ``quantize_type`` says: in
    4 bits ("nf4": NormalFloat, doubly quantised) or 8 ("int8"). ``threads`` is torch's intra-op thread count per trial
    on a CPU (None: torch's choice).
    """

    plugin: PluginName = "ddp"
    dtype: Literal["bf16", "fp16", "fp32"] = "bf16"
    devices_per_trial: int = Field(1, ge=1)
    micro_batch_size: int | None = Field(None, ge=1)
    eval_batch_size: int = Field(8, ge=1)
    gradient_checkpointing: bool = False
    reentrant_checkpointing: bool = False
    optimizer: Literal["adamw", "adamw-8bit"] = "adamw"
    quantize: bool = False
    quantize_type: Precision = "nf4"
    max_grad_norm: float = Field(1.0, gt=0)
    threads: int | None = Field(None, ge=1)

    @property
    def base_precision(self) -> Precision | None:
        """What the linear modules of a frozen base model are quantised to; None where they are not."""
        return self.quantize_type if self.quantize else None

    def micro_batch(self, batch_size: int) -> int:
        """Examples per forward pass for an effective batch of ``batch_size`` examples."""
        return min(batch_size, self.micro_batch_size or batch_size)


class DataSettings(Settings):
    """Where the examples come from and how they are split.

    ``source`` is a file (JSONL, CSV, Parquet), a hub data set's name, or ``builtin:python-docstrings``.
    ``split_seed`` is apart from the sweep's seed, so that two sweeps with different seeds share their splits.
    ``validation_examples`` and ``test_examples`` are upper limits: small data give at most a fifth to each.
    """

    source: str = "builtin:python-docstrings"
    seq_len: int = Field(128, ge=8)
    validation_examples: int = Field(64, ge=1)
    test_examples: int = Field(64, ge=1)
    split_seed: int = Field(0, ge=0)
    prompt_column: str = "prompt"
    response_column: str = "response"
    group_column: str = "group"
    hub_split: str = "train"


class TrialSpec(Settings):
    """Everything a worker needs to run one trial, apart from the data.

    ``kind`` is ``lora``, or ``full`` for the full fine-tuning baseline (its ``config`` then only gives
    learning rate, batch size and schedule). ``rungs`` are numbers of examples, ascending; the last one is the
    full resource. ``target_modules`` are leaf module names. ``evaluate_base`` asks this trial to also evaluate
    the untouched model once for the sweep, ``evaluate_test`` to evaluate on the test split as well (the trained model
    at the full resource, and the untouched one). ``resume_from`` is a checkpoint folder to go on from. With
    ``replicate_of`` the trial trains the config of that trial again, with another seed. ``base_model_path`` is the
    model's folder where the sweep was started; on a cluster ``base_model`` is its source, and nodes find their own.
    """

    trial_id: str
    kind: Literal["lora", "full"] = "lora"
    config: TrialConfig
    execution: ExecutionSettings
    target_modules: tuple[str, ...]
    rungs: tuple[int, ...] = Field(min_length=1)
    base_model_path: str
    base_model: str | None = None
    base_model_sha256: str | None = None
    seed: int = 0
    evaluate_base: bool = False
    evaluate_test: bool = False
    resume_from: str | None = None
    replicate_of: str | None = None
