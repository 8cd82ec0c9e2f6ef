"""A trial's settings in the words of ColossalChat's two training scripts.

Flags and fields are those of ColossalAI v0.5.0 (the version lorafront trains with), files
`applications/ColossalChat/examples/training_scripts/lora_finetune.py`, `train_sft.py` beside it, and
`applications/ColossalChat/coati/models/lora.py`.
"""

import math
import shlex
from collections.abc import Mapping
from typing import Any

from analysis.records import TrialRecord
from analysis.results import Run
from analysis.text import number_text

_PLUGINS = {"ddp": "ddp", "zero1": "zero2", "zero2": "zero2", "zero2-offload": "zero2_cpu", "hybrid": "3d"}
_YOUR_DATA = "PATH/TO/conversations.jsonl"
# coati's LoraLinear is built without the config's alpha, so its own default holds (`lora.py`, LoraLinear).
_COATI_ALPHA = 32


def effective_alpha(config: Mapping[str, Any]) -> float:
    """The alpha that gives this config's adapter scale where the scale is alpha / rank.

    Rank-stabilised LoRA scales by alpha / sqrt(rank) instead (arXiv 2312.03732).

    >>> effective_alpha({"rank": 16, "alpha": 8.0})
    8.0
    >>> effective_alpha({"rank": 16, "alpha": 8.0, "use_rslora": True})
    32.0
    """
    alpha = float(config["alpha"])
    return alpha * math.sqrt(config["rank"]) if config.get("use_rslora") else alpha


def lora_finetune_arguments(run: Run, trial: TrialRecord, base_model: str) -> dict[str, Any]:
    """Flags of `lora_finetune.py` without their dashes. Its ``lora_alpha`` must be a whole number."""
    config, execution, data = trial.config, run.section("execution"), run.section("data")
    batch_size = int(config["batch_size"])
    micro_batch = min(batch_size, execution.get("micro_batch_size") or batch_size)
    max_examples = run.config.get("max_examples") or trial.examples_seen
    source = str(data.get("source", ""))
    arguments = {
        "pretrained": base_model,
        "dataset": source if source.endswith(".jsonl") else _YOUR_DATA,
        "plugin": _PLUGINS.get(str(execution.get("plugin")), "zero2"),
        "save_dir": "checkpoints",
        "num_epochs": 1,
        "batch_size": micro_batch,
        "accumulation_steps": math.ceil(batch_size / micro_batch),
        "lr": config["learning_rate"],
        "max_length": data.get("seq_len", 512),
        "mixed_precision": "fp16" if execution.get("dtype") == "fp16" else "bf16",
        "grad_clip": execution.get("max_grad_norm", 1.0),
        "weight_decay": config.get("weight_decay", 0.0),
        "warmup_steps": round(config.get("warmup_ratio", 0.0) * max_examples / batch_size),
        "lora_rank": config["rank"],
        "lora_alpha": max(1, round(effective_alpha(config))),
    }
    return arguments


def arguments_text(arguments: Mapping[str, Any]) -> str:
    """One flag a line, quoted as a shell (and `xargs`) reads it.

    >>> arguments_text({"lr": 0.001, "dataset": "my data.jsonl"})
    "--lr 0.001\\n--dataset 'my data.jsonl'\\n"
    """
    return "".join(f"--{name} {shlex.quote(str(value))}\n" for name, value in arguments.items())


def train_sft_lora_config(trial: TrialRecord, target_modules: list[str]) -> dict[str, Any]:
    """The fields of `coati.models.lora.LoraConfig`, for `train_sft.py --lora_config`."""
    return {
        "r": trial.config["rank"],
        "lora_alpha": effective_alpha(trial.config),
        "linear_lora_dropout": trial.config.get("dropout", 0.0),
        "embedding_lora_dropout": 0.0,
        "lora_train_bias": "none",
        "lora_initialization_method": "PiSSA" if trial.config.get("init") == "pissa" else "kaiming_uniform",
        "target_modules": target_modules,
    }


def readme_text(run: Run, trial: TrialRecord, arguments: Mapping[str, Any], target_modules: list[str]) -> str:
    """What a person must know before using these files: the two scripts are not lorafront's training loop."""
    config = trial.config
    alpha, rank = effective_alpha(config), config["rank"]
    return _README.format(
        trial_id=trial.trial_id,
        rank=rank,
        lora_config_line=_lora_config_line(config, target_modules),
        target_modules=", ".join(target_modules),
        alpha=number_text(alpha),
        whole_alpha=arguments["lora_alpha"],
        scale=number_text(alpha / rank),
        coati_alpha=_COATI_ALPHA,
        coati_scale=number_text(_COATI_ALPHA / rank),
        dropout=number_text(config.get("dropout", 0.0)),
        coati_gaps="".join(_coati_gaps(config)),
        your_data=_YOUR_DATA,
        checkpointing=_CHECKPOINTING if run.section("execution").get("gradient_checkpointing") else "",
    )


def _lora_config_line(config: Mapping[str, Any], target_modules: list[str]) -> str:
    """The PEFT config of the trial as a line of Python for `lora_finetune.py`."""
    rank, alpha, dropout = int(config["rank"]), float(config["alpha"]), float(config.get("dropout", 0.0))
    options = f"r={rank}, lora_alpha={alpha}, lora_dropout={dropout}"
    options += "".join(f", {flag}=True" for flag in ("use_rslora", "use_dora") if config.get(flag))
    options += ', init_lora_weights="pissa"' if config.get("init") == "pissa" else ""
    return f'lora_config = LoraConfig(task_type="CAUSAL_LM", {options}, target_modules={target_modules})'


def _coati_gaps(config: Mapping[str, Any]) -> list[str]:
    gaps = []
    if config.get("use_dora"):
        gaps.append("- It has no DoRA; this preset uses it.\n")
    if config.get("use_rslora"):
        gaps.append(
            "- It has no rank-stabilised scale; `lora_alpha` is given as the alpha of the same scale.\n"
        )
    return gaps


_CHECKPOINTING = """\
  This preset counts on checkpointing for its memory: add that call below the line with `booster.enable_lora`, and only
  then pass `--use_grad_checkpoint`.
"""
_README = """\
# Trial {trial_id} for ColossalChat

Written for ColossalAI v0.5.0, folder `applications/ColossalChat/examples/training_scripts`.

## lora_finetune.py (PEFT's LoRA)

    xargs -a lora_finetune.args torchrun --standalone --nproc_per_node 1 lora_finetune.py

`lora_finetune.json` holds the same arguments. Before you start:

- `--dataset` is a JSONL file, each line a bare list of `{{"role": ..., "content": ...}}` messages. Where these
  files say `{your_data}`, put your own.
- The script honours alpha, as a whole number: this trial's is {alpha}, `--lora_alpha` says {whole_alpha}.
- It has no flag for target modules or dropout. PEFT then chooses the modules (for Llama `q_proj` and
  `v_proj`). To train what this trial trained, replace the line that makes `lora_config` by

      {lora_config_line}

- `--use_grad_checkpoint` is left out on purpose. In v0.5.0 the script does not call
  `model.enable_input_require_grads()`, and with checkpointing the adapters get no gradient.
{checkpointing}- `--warmup_steps` is this trial's warm-up at the sweep's number of examples; raise it for longer training.

## train_sft.py (ColossalChat's own LoRA)

    torchrun --standalone --nproc_per_node 1 train_sft.py --lora_config lora_config.json ...

- Its LoRA ignores `lora_alpha` and `linear_lora_dropout` for linear layers: `_lora_linear_wrapper` does not
  pass them on. Every linear adapter is scaled by 1/r times a built-in {coati_alpha}: here by {coati_scale}, where
  this trial used {scale}. It has no dropout, where this trial used {dropout}. Learning rates do not carry over
  between scales.
- To get this trial's scale, let `_lora_linear_wrapper` in `coati/models/lora.py` pass
  `lora_alpha=lora_config.lora_alpha, lora_dropout=lora_config.linear_lora_dropout` to `LoraLinear`.
{coati_gaps}
Target modules of this trial: {target_modules}.
"""
