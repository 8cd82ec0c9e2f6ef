"""Writes one trial as a preset folder: settings, adapter, and the same for ColossalChat."""

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from analysis.against_full import headline_for
from analysis.colossalchat import (
    arguments_text,
    lora_finetune_arguments,
    readme_text,
    train_sft_lora_config,
)
from analysis.execution import executed_as, execution_content
from analysis.inside import is_inside
from analysis.records import ExecutionVariant, TrialRecord
from analysis.results import Run
from analysis.text import DERIVED_KEY
from search.errors import InputError
from search.yaml_io import dump_yaml

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# What a new sweep takes over from the old one; its name, machine and budgets are its own.
_SWEEP_KEYS = (
    "size",
    "base_model",
    "base_model_sha256",
    "max_examples",
    "reduction_factor",
    "rung_count",
    "seed",
    "data",
    "execution",
    "baseline",
    "target_sets",
    "architecture",
)
_MEASURED_KEYS = (
    "eval_loss",
    "eval_loss_stderr",
    "test_loss",
    "peak_memory_bytes",
    "memory_source",
    "examples_seen",
    "train_seconds",
    "tokens_per_second",
    "trainable_parameters",
)
_LORA_KEYS = ("rank", "alpha", "targets", "dropout", "use_rslora", "use_dora", "init")


def export_preset(
    run: Run, trial: TrialRecord, to_dir: str | Path, variant: ExecutionVariant | None = None
) -> Path:
    """Write the preset of ``trial`` and return its folder; it appears whole or not at all.

    Its settings say to execute the training like ``variant``, or as the trial was (None).

    Raises:
        InputError: ``to_dir`` is taken or cannot be written, or the trial's adapter is missing or unreadable.
    """
    target = Path(to_dir)
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise InputError(f"--to {to_dir}: exists already; give a new or an empty folder")
    adapter_dir = _adapter_dir(run, trial)
    adapter_config = _read_adapter_config(adapter_dir)
    target = target.resolve()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        try:
            _fill(temporary, executed_as(run, variant), trial, adapter_dir, adapter_config, variant)
            temporary.chmod(0o755)  # mkdtemp makes folders that only the owner can enter
            os.replace(temporary, target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise InputError(f"--to {to_dir}: cannot be written: {error.strerror or error}") from error
    return target


def preset_content(
    run: Run, trial: TrialRecord, target_modules: list[str], variant: ExecutionVariant | None = None
) -> dict[str, Any]:
    """The content of `preset.yaml`. Its ``sweep`` section is a sweep configuration with everything fixed."""
    config = trial.config
    return {
        "schema": 1,
        "size": run.front.size,
        "base_model": run.config.get("base_model"),
        "lora": {
            **{key: config[key] for key in _LORA_KEYS if key in config},
            "target_modules": target_modules,
        },
        "training": {
            **{key: value for key, value in config.items() if key not in (*_LORA_KEYS, DERIVED_KEY)},
            "max_examples": run.config.get("max_examples"),
            "seq_len": run.section("data").get("seq_len"),
            **run.section("execution"),
        },
        **execution_content(trial, variant),
        "measured": _measured(run, trial),
        "origin": {
            "run": run.front.name,
            "trial_id": trial.trial_id,
            "seed": trial.seed,
            "picked_from": len(run.front.trials),
            **{key: run.sweep.get(key) for key in ("created", "command", "device", "git_commit", "data")},
        },
        "versions": run.sweep.get("versions") or {},
        "sweep": sweep_section(run, trial),
    }


def sweep_section(run: Run, trial: TrialRecord) -> dict[str, Any]:
    """A valid `--config`: one trial with this config on the same model and data.

    The scale is fixed as ``alpha_ratio`` (alpha / rank), the dimension that is searched. ``recommended``
    repeats the point, because the size's own first config lies outside a space with everything fixed.
    """
    space = {key: value for key, value in trial.config.items() if key not in ("alpha", DERIVED_KEY)}
    if {"rank", "alpha"} <= set(trial.config):
        space["alpha_ratio"] = trial.config["alpha"] / trial.config["rank"]
    kept = {key: run.config[key] for key in _SWEEP_KEYS if key in run.config}
    return {**kept, "trials": 1, "confirm": 0, "space": space, "recommended": dict(space)}


def _measured(run: Run, trial: TrialRecord) -> dict[str, Any]:
    headline = headline_for(trial, run.base, run.front.baseline)
    return {
        **{name: getattr(trial, name) for name in _MEASURED_KEYS},
        "base_eval_loss": run.base.eval_loss if run.base else None,
        "full_fine_tuning": run.front.baseline.model_dump() if run.front.baseline else None,
        "against_full_fine_tuning": headline.model_dump(exclude={"trial_id"}) if headline else None,
    }


def _fill(
    folder: Path,
    run: Run,
    trial: TrialRecord,
    adapter_dir: Path,
    adapter_config: dict[str, Any],
    variant: ExecutionVariant | None,
) -> None:
    targets = adapter_config["target_modules"]
    preset = dump_yaml(preset_content(run, trial, targets, variant))
    header = _PRESET_HEADER + ("" if variant is None or variant.is_own else _OTHER_EXECUTION)
    (folder / "preset.yaml").write_text(header + preset, encoding="utf-8")
    for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        shutil.copyfile(adapter_dir / name, folder / name)
    chat = folder / "colossalchat"
    chat.mkdir()
    arguments = lora_finetune_arguments(run, trial, _loadable_base_model(run, adapter_config))
    _write_json(chat / "lora_finetune.json", arguments)
    (chat / "lora_finetune.args").write_text(arguments_text(arguments), encoding="utf-8")
    _write_json(chat / "lora_config.json", train_sft_lora_config(trial, targets))
    (chat / "README.md").write_text(readme_text(run, trial, arguments, targets), encoding="utf-8")


def _adapter_dir(run: Run, trial: TrialRecord) -> Path:
    checkpoint = run.checkpoint_dir(trial)
    if checkpoint is None:
        raise InputError(
            f"trial {trial.trial_id!r} has no checkpoint in this run folder, so there is no adapter to export"
        )
    folder = checkpoint / "adapter"
    for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        if not is_inside(folder / name, run.paths.root):
            raise InputError(f"trial {trial.trial_id!r}: {folder / name} leads out of the run folder")
    missing = [name for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS) if not (folder / name).is_file()]
    if missing:
        raise InputError(f"trial {trial.trial_id!r}: its adapter is not there: {folder} has no {missing[0]}")
    return folder


def _read_adapter_config(adapter_dir: Path) -> dict[str, Any]:
    """PEFT's config of the adapter, with ``target_modules`` as a sorted list."""
    path = adapter_dir / ADAPTER_CONFIG
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        modules = content["target_modules"]
        modules = [modules] if isinstance(modules, str) else sorted(modules)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not a PEFT adapter configuration: {error!r}") from error
    return {**content, "target_modules": modules}


def _loadable_base_model(run: Run, adapter_config: dict[str, Any]) -> str:
    """What transformers loads by itself: for a wheel or a `.gguf` file the folder that was made of it."""
    source = str(run.config.get("base_model") or "")
    if source and not source.startswith("pypi:") and not source.endswith(".gguf"):
        return source
    return str(adapter_config.get("base_model_name_or_path") or source)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


_PRESET_HEADER = """\
# A LoRA preset measured by lorafront. The adapter beside this file loads with peft.PeftModel.from_pretrained.
# Train with these settings again: lorafront sweep --config preset.yaml
"""
_OTHER_EXECUTION = """\
# `execution` is not what the trial was measured with (`is_own` under `execution_variants`): its memory is predicted, its
# speed modelled. The figures under `measured` are those of the measured one; the losses hold for both, up to rounding.
"""
