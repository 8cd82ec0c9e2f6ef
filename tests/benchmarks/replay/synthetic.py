"""Made-up tables in the format of recorded ones: power-law curves with noise, memory from batch, targets and rank."""

import json
from pathlib import Path
from typing import Any

import numpy as np

RANKS, BATCHES = (2, 4, 8, 16, 32, 64), (2, 4, 8)
# By target set: loss above the best set's, and megabytes per example and per rank. Roughly those of SmolLM2-135M.
TARGETS = {
    "attention-qv": (0.30, 100.0, 0.5),
    "attention-qkv": (0.22, 105.0, 0.7),
    "attention": (0.12, 115.0, 1.0),
    "mlp": (0.05, 160.0, 2.5),
    "all-linear": (0.0, 190.0, 4.0),
}
BASE_LOSS, FLOOR, EXAMPLES = 4.1, 3.0, 32


def draw_config(random: np.random.Generator) -> dict[str, Any]:
    """A random config of the embedded default's space."""
    rank = int(random.choice(RANKS))
    return {
        "rank": rank,
        "alpha": float(rank * np.exp(random.uniform(np.log(0.25), np.log(4.0)))),
        "targets": str(random.choice(list(TARGETS))),
        "learning_rate": float(np.exp(random.uniform(np.log(2e-4), np.log(3e-3)))),
        "batch_size": int(random.choice(BATCHES)),
    }


def final_gain(config: dict[str, Any], examples: int) -> float:
    """By how much the loss has fallen below `BASE_LOSS`: a power law whose height and pace the config sets."""
    above, _, _ = TARGETS[config["targets"]]
    step = np.log(config["learning_rate"] * (config["alpha"] / config["rank"]) ** 0.5 / 1.3e-3)
    misfit = (
        0.25 * step**2
        + 0.04 * np.log(64 / config["rank"]) / np.log(2) / 5
        + 0.03 * (config["batch_size"] - 2) / 6
    )
    height = BASE_LOSS - FLOOR - above - misfit
    pace = 0.55 + 0.15 * np.tanh(step)  # high rates fall faster at first, so early ranks mislead a little
    return float(height * (1 - (1 + examples / 8) ** -pace))


def memory_bytes(config: dict[str, Any]) -> int:
    """Peak memory, without noise."""
    _, per_example, per_rank = TARGETS[config["targets"]]
    return int(1e6 * (250 + per_example * config["batch_size"] + per_rank * config["rank"]))


def curve(
    config: dict[str, Any], rungs: tuple[int, ...], random: np.random.Generator
) -> list[dict[str, Any]]:
    """The rungs of one config, 0.35 s of training an example."""
    offsets = np.random.default_rng(0).normal(0.0, 0.9, EXAMPLES)  # the same hard examples for every config
    found = []
    for examples in rungs:
        losses = BASE_LOSS - final_gain(config, examples) + offsets - offsets.mean()
        losses += random.normal(0.0, 0.12, EXAMPLES)
        found.append(
            {
                "examples_seen": examples,
                "eval_loss": round(float(losses.mean()), 5),
                "eval_loss_stderr": round(float(losses.std(ddof=1) / EXAMPLES**0.5), 5),
                "example_losses": [round(float(loss), 4) for loss in losses],
                "train_seconds": round(0.35 * examples, 2),
                "eval_seconds": 5.0,
            }
        )
    return found


def table_lines(count: int, seed: int = 0, rungs: tuple[int, ...] = (16, 48, 144)) -> list[dict[str, Any]]:
    """Header and rows."""
    random = np.random.default_rng(seed)
    lines: list[dict[str, Any]] = [{"schema": 1, "size": "smollm2-135m", "rungs": list(rungs)}]
    for _ in range(count):
        config = draw_config(random)
        lines.append(
            {
                "config": config,
                "begin_seconds": 0.4,
                "peak_memory_bytes": memory_bytes(config),
                "rungs": curve(config, rungs, random),
            }
        )
    return lines


def write_table(path: Path, count: int, seed: int = 0) -> Path:
    """A table file; returns its path."""
    path.write_text("".join(json.dumps(line) + "\n" for line in table_lines(count, seed)))
    return path
