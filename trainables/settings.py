"""What one trial is told: light, serialisable settings. Importing this costs no torch."""

from functools import partial
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

PLUGINS = ("ddp", "zero1", "zero2", "zero2-offload", "hybrid")
# Tokens of the longest sequence that `trainables.cpu_attention` takes. Its scores [B, H, T, T] exist at once, so their
# memory grows with T squared: at 256 tokens they are as large as the four tensors that are kept anyway (4 x 64 dimensions
# per head), beyond that they would set the peak.
LONGEST_SHORT_ATTENTION = 256
Precision = Literal["nf4", "int8"]
PluginName = Literal["ddp", "zero1", "zero2", "zero2-offload", "hybrid"]


class Settings(BaseModel):
    """Base of all settings: unknown keys are errors, values cannot change after checking."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Architecture(Settings):
    """The shape of a causal language model.

    The numbers describe any Llama-like model; ``model_type`` is transformers' name of its family. ``config`` is the rest
    of the model's ``config.json``, as far as the shape depends on it: nothing for a plain Llama, everything for a family
    that only transformers itself knows how to build (`trainables.meta_model`).
    """

    hidden_size: int = Field(gt=0)
    intermediate_size: int = Field(gt=0)
    num_layers: int = Field(gt=0)
    num_heads: int = Field(gt=0)
    num_kv_heads: int = Field(gt=0)
    head_dim: int = Field(gt=0)
    vocab_size: int = Field(gt=0)
    tie_word_embeddings: bool
    model_type: str = "llama"
    config: dict[str, Any] = Field(default_factory=dict)

    def __hash__(self) -> int:
        return hash(self.model_dump_json())

    @classmethod
    def from_model_config(cls, config: dict[str, Any]) -> Self:
        """From the dictionary in a model's ``config.json`` (Hugging Face names).

        Raises:
            KeyError: a model of the Llama family lacks a field that each of them has.
        """
        family = str(config.get("model_type") or "llama")
        plain = family in PLAIN_FAMILIES
        number = config.__getitem__ if plain else partial(_first_number, config)
        heads = number("num_attention_heads")
        return cls(
            hidden_size=number("hidden_size"),
            intermediate_size=number("intermediate_size"),
            num_layers=number("num_hidden_layers") if plain else _layers(config),
            num_heads=heads,
            num_kv_heads=config.get("num_key_value_heads") or heads,
            head_dim=config.get("head_dim") or max(1, number("hidden_size") // heads),
            vocab_size=number("vocab_size"),
            tie_word_embeddings=bool(config.get("tie_word_embeddings", not plain)),
            model_type=family,
            config={name: config[name] for name in _PLAIN_EXTRAS if config.get(name)} if plain else config,
        )


PLAIN_FAMILIES = ("llama", "mistral", "qwen2")
"""Families whose every layer is a Llama's (Qwen2 adds biases), so that closed forms describe them."""

# What of a plain family's config.json changes the shape beside the numbers.
_PLAIN_EXTRAS = ("attention_bias", "mlp_bias", "use_sliding_window", "sliding_window")
# Older families' names of the numbers (GPT-2, GPT-J, Bloom, MPT, Falcon, XGLM).
_OTHER_NAMES = {
    "hidden_size": ("n_embd", "d_model"),
    "intermediate_size": ("n_inner", "ffn_dim", "hidden_size", "n_embd", "d_model"),
    "num_hidden_layers": ("n_layer", "n_layers", "num_layers"),
    "num_attention_heads": ("n_head", "n_heads", "num_heads", "attention_heads"),
}


def _first_number(config: dict[str, Any], name: str) -> int:
    """A number under any of its names; the first of a list with one per layer; 1 where the family has no such thing."""
    for known in (name, *_OTHER_NAMES.get(name, ())):
        value = config.get(known)
        value = value[0] if isinstance(value, list) and value else value
        if isinstance(value, int) and value > 0:
            return value
    return 1


def _layers(config: dict[str, Any]) -> int:
    """Decoder layers; Nemotron-H, as transformers 5 saves it, only lists what each of them is."""
    kinds = config.get("layers_block_type")
    listed = len(kinds) if isinstance(kinds, list) else 1
    return max(_first_number(config, "num_hidden_layers"), listed)


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
