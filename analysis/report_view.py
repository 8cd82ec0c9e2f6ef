"""What the report says, as plain data for its template: no HTML here."""

import math
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from shlex import join, quote, split
from typing import Any

from analysis.confirmed import interval_text, picked_from_text
from analysis.headline import recommended
from analysis.records import TrialRecord
from analysis.results import Run
from analysis.text import label_of, loss_text, number_text, ordered_config
from search.units import GIB, format_duration, format_memory

_STATUSES = ("completed", "stopped", "infeasible", "failed", "running")


def status_counts(run: Run) -> dict[str, int]:
    """How many LoRA trials ended in which way, only those that occur, in a fixed order."""
    counts = Counter(trial.status for trial in run.front.trials)
    return {status: counts[status] for status in _STATUSES if counts[status]}  # type: ignore[index]


def sweep_rows(run: Run) -> list[tuple[str, str]]:
    """What was swept, on what and with what: headings and texts, leaving out what is not known."""
    config, sweep = run.config, run.sweep
    rows = [
        ("Base model", _text(sweep.get("base_model") or config.get("base_model"))),
        ("Size profile", run.front.size),
        ("Data", _data_text(run)),
        ("Sequence length", _unit(run.section("data").get("seq_len"), "tokens")),
        ("Resource", _resource_text(run)),
        ("Scheduling", _scheduling_text(config)),
        ("Search ended early", _text(sweep.get("search_ended"))),
        ("Search space", "\n".join(f"{label_of(key)}: {_space_text(value)}" for key, value in _space(run))),
        ("Memory budget", _formatted(config.get("memory_budget"), format_memory)),
        ("Time budget", _formatted(config.get("time_budget"), format_duration)),
        ("Execution", _execution_text(run.section("execution"))),
        ("Seed", _text(config.get("seed"))),
        ("Device", _text(sweep.get("device"))),
        ("Started", run.front.created),
        ("Git commit", _text(sweep.get("git_commit"))),
        (
            "Versions",
            ", ".join(f"{name} {version}" for name, version in _mapping(sweep.get("versions")).items()),
        ),
    ]
    return [(heading, text) for heading, text in rows if text]


def settings_rows(trial: TrialRecord) -> list[tuple[str, str]]:
    """The whole config of a trial for people."""
    return [(label_of(key), number_text(value)) for key, value in ordered_config(trial.config).items()]


def measured_rows(trial: TrialRecord) -> list[tuple[str, str]]:
    """What was measured of a trial."""
    source = f" ({trial.memory_source})" if trial.memory_source else ""
    rows = [
        ("eval loss", loss_text(trial.eval_loss, trial.eval_loss_stderr)),
        ("test loss", _test_text(trial)),
        ("peak memory", _formatted(trial.peak_memory_bytes, format_memory) + source),
        ("speed", _unit(trial.tokens_per_second, "tokens/s")),
        ("trainable parameters", _unit(trial.trainable_parameters, "")),
        ("training time", format_duration(trial.train_seconds)),
    ]
    return [(heading, text) for heading, text in rows if text]


def _test_text(trial: TrialRecord) -> str:
    if trial.test_loss is None:
        return ""
    if trial.confirmation is None:
        return loss_text(trial.test_loss, trial.test_loss_stderr)
    interval = interval_text(trial.confirmation.test_interval, loss_text)
    return f"{loss_text(trial.test_loss)}{interval} ({len(trial.confirmation.seeds)} new seeds)"


def selection_text(run: Run) -> str:
    """From how much the recommended trial was picked, and what that does to its loss."""
    best = recommended(run.front)
    if best is None:
        return ""
    text = picked_from_text(run.front)
    held_out = _mapping(run.sweep.get("data")).get("validation")
    text = text.replace("the validation", f"the same {held_out} validation") if held_out else text
    if len(run.front.trials) > 1:
        text += " The best of many looks a little better than it is."
    if best.test_loss is None:
        return f"{text} Its loss on unseen test examples was not measured."
    seeds = f", with {len(best.confirmation.seeds)} new seeds," if best.confirmation else ""
    return (
        f"{text} On test examples that the search never saw{seeds} its loss is {loss_text(best.test_loss)}."
    )


def commands(run: Run) -> list[tuple[str, str]]:
    """What to type to run the sweep again and to use its result."""
    folder = quote(str(run.paths.root))
    rows = [("Run this sweep again", _again(run)), ("Rebuild this report", f"lorafront report {folder}")]
    best = recommended(run.front)
    if best is not None:
        preset = quote(f"presets/{Path(run.front.name).name or 'preset'}")
        whole_gib = math.ceil((best.peak_memory_bytes or 0) / GIB)
        rows += [
            ("Export the recommended config", f"lorafront export {folder} --pick knee --to {preset}"),
            (
                "Export the best config that fits a memory size",
                f"lorafront export {folder} --pick under:{whole_gib}GiB --to {preset}",
            ),
        ]
    return rows


def _again(run: Run) -> str:
    """The recorded command if it is one of ours, and nothing that a shell would read as more than that."""
    recorded = str(run.sweep.get("command") or "")
    with suppress(ValueError):  # unbalanced quotes
        words = split(recorded)
        if words[:1] == ["lorafront"] and join(words) == recorded and recorded.isprintable():
            return recorded
    return f"lorafront sweep --config {quote(str(run.paths.sweep_yaml))}"


def _data_text(run: Run) -> str:
    config, facts = run.section("data"), _mapping(run.sweep.get("data"))
    source = _text(facts.get("source") or config.get("source"))
    counts = [
        f"{facts[split]:,} {split}" for split in ("train", "validation", "test") if _is_int(facts.get(split))
    ]
    parts = [source, f"{', '.join(counts)} examples" if counts else ""]
    parts.append(f"fingerprint {facts['fingerprint']}" if facts.get("fingerprint") else "")
    return "\n".join(part for part in parts if part)


def _resource_text(run: Run) -> str:
    rungs = sorted({rung.examples_seen for trial in run.front.trials for rung in trial.rungs})
    full = run.config.get("max_examples")
    parts = [f"{full} training examples per trial" if full else ""]
    parts.append(f"evaluated after {', '.join(map(str, rungs))}" if rungs else "")
    return ", ".join(part for part in parts if part)


def _scheduling_text(config: Mapping[str, Any]) -> str:
    names = {
        "pareto-asha": "Pareto-aware ASHA",
        "asha": "ASHA",
        "fifo": "no early stopping",
        "hypervolume": "Thompson sampling by hypervolume",
        "tpe": "TPE (Optuna)",
        "random": "random sampling",
    }
    chosen = [names.get(str(config.get(key)), _text(config.get(key))) for key in ("sampler", "scheduler")]
    return ", ".join(name for name in chosen if name)


def _execution_text(execution: Mapping[str, Any]) -> str:
    parts = [_text(execution.get("plugin")), _text(execution.get("dtype"))]
    devices = execution.get("devices_per_trial")
    parts.append("" if devices is None else f"{devices} device{'' if devices == 1 else 's'} per trial")
    parts += [label_of(flag) for flag in ("gradient_checkpointing", "quantize") if execution.get(flag)]
    return ", ".join(part for part in parts if part)


def _space(run: Run) -> list[tuple[str, Any]]:
    return list(run.section("space").items())


def _space_text(dimension: Any) -> str:
    if isinstance(dimension, dict):
        ends = f"{number_text(dimension.get('low'))} to {number_text(dimension.get('high'))}"
        return f"{ends}, log scale" if dimension.get("log") else ends
    return number_text(dimension) if isinstance(dimension, list) else f"{number_text(dimension)} (fixed)"


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _unit(value: Any, unit: str) -> str:
    """A count with thousands separators and its unit; empty when there is none."""
    return f"{value:,.0f} {unit}".strip() if isinstance(value, int | float) else ""


def _formatted(value: Any, formatter: Any) -> str:
    return str(formatter(value)) if isinstance(value, int | float) else _text(value)
