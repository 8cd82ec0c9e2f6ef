"""Builds the content of `front.json` from trial records, and writes it."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from analysis.against_full import headline_for
from analysis.confirmation import confirm_all
from analysis.files import write_atomically
from analysis.memory_error import memory_prediction
from analysis.pareto import front_indices, hypervolume, knee_index
from analysis.records import Base, Baseline, Event, Front, TrialRecord

_SINGLE_LOSSES = {"trials": {"__all__": {"rungs": {"__all__": {"example_losses"}}}}}


def build_front(
    *,
    name: str,
    size: str,
    created: str,
    finished: bool,
    trials: Sequence[TrialRecord],
    base: Base | None,
    reference_point: dict[str, float],
    predicted_full_memory_bytes: int | None = None,
) -> Front:
    """The front of a sweep, from nothing but its records (which stay as they are: the front holds copies).

    Only completed LoRA trials with both objectives can be on the front. The completed full fine-tuning
    record becomes ``baseline`` and replicates become the ``confirmation`` of their trial; neither is among ``trials``.
    ``reference_point`` bounds the hypervolume, whose unit is nat x byte.
    """
    lora = [trial.model_copy(update={"on_front": False}) for trial in trials if trial.kind == "lora"]
    members = _mark_front(lora)
    replicates = [trial for trial in trials if trial.kind == "replicate"]
    confirm_all(lora, replicates)
    baseline = _baseline(trials)
    reference = (reference_point["eval_loss"], reference_point["peak_memory_bytes"])
    headlines = {
        name: headline
        for name, trial in picks(members).items()
        if (
            headline := headline_for(
                trial,
                base,
                baseline,
                predicted_full_memory_bytes=predicted_full_memory_bytes,
                replicates=replicates,
            )
        )
    }
    return Front(
        schema=1,
        name=name,
        size=size,
        created=created,
        finished=finished,
        reference_point=reference_point,
        hypervolume=hypervolume([_point(trial) for trial in members], reference),
        base=base,
        baseline=baseline,
        headline=headlines.get("knee") if baseline else None,
        headlines=headlines,
        predicted_full_memory_bytes=predicted_full_memory_bytes,
        memory_prediction=memory_prediction(lora),
        trials=lora,
    )


def front_members(front: Front) -> list[TrialRecord]:
    """The trials on the front, least memory first."""
    return sorted((trial for trial in front.trials if trial.on_front), key=lambda trial: _point(trial)[::-1])


def knee(members: Sequence[TrialRecord]) -> TrialRecord:
    """The recommended member of a front (see `pareto.knee_index`); the first one of exact duplicates.

    Raises:
        ValueError: there are no members.
    """
    return members[knee_index([_point(trial) for trial in members])]


def picks(members: Sequence[TrialRecord]) -> dict[str, TrialRecord]:
    """The members of a front that people ask for: its ``knee``, the best ``quality`` and the least ``memory``."""
    if not members:
        return {}
    return {
        "knee": knee(members),
        "quality": min(members, key=_point),
        "memory": min(members, key=lambda trial: _point(trial)[::-1]),
    }


def sweep_facts(events: Iterable[Event]) -> dict[str, Any]:
    """What the ``sweep`` events say of the run: the newest value of every key."""
    facts: dict[str, Any] = {}
    for event in events:
        facts |= event.sweep or {}
    return facts


def reference_point(events: Sequence[Event]) -> dict[str, float]:
    """The point that bounds the hypervolume, as the newest ``sweep`` event fixed it.

    An ``eval_loss`` left open there is the untouched model's, or before that is known the largest loss seen
    (0.0 when there is none). A missing ``peak_memory_bytes`` is the largest peak seen.
    """
    stored = sweep_facts(events).get("reference_point") or {}
    trials = [event.trial for event in events if event.trial is not None]
    eval_loss, peak_memory_bytes = stored.get("eval_loss"), stored.get("peak_memory_bytes")
    if eval_loss is None:
        bases = [event.base.eval_loss for event in events if event.base is not None]
        seen = [trial.eval_loss for trial in trials if trial.eval_loss is not None]
        eval_loss = bases[-1] if bases else max(filter(math.isfinite, seen), default=0.0)
    if peak_memory_bytes is None:
        peak_memory_bytes = max((trial.peak_memory_bytes or 0 for trial in trials), default=0)
    return {"eval_loss": eval_loss, "peak_memory_bytes": peak_memory_bytes}


def write_front(front: Front, path: Path) -> None:
    """Write `front.json` atomically. A figure that is NaN or infinite is written as null.

    Raises:
        OSError: the folder cannot be written to; an older file is then left as it was.
    """
    write_atomically(path, front_json(front) + "\n")


def front_json(front: Front) -> str:
    """The text of `front.json`: strict JSON. Losses of single examples are left out: they stand in trials.jsonl.

    Of 10,000 trials with 256 validation examples they would be nine tenths of 130 MB.
    """
    return front.model_dump_json(by_alias=True, indent=2, exclude=_SINGLE_LOSSES)


def _mark_front(trials: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Set ``on_front`` on the non-dominated among the completed trials, and return those."""
    eligible = [trial for trial in trials if trial.status == "completed" and _has_objectives(trial)]
    members = [eligible[index] for index in front_indices([_point(trial) for trial in eligible])]
    for trial in members:
        trial.on_front = True
    return members


def _baseline(trials: Iterable[TrialRecord]) -> Baseline | None:
    """The last completed full fine-tuning record with all its figures, as a baseline."""
    baseline = None
    for trial in trials:
        if trial.kind == "full" and trial.status == "completed" and _has_objectives(trial):
            eval_loss, peak_memory_bytes = _point(trial)
            baseline = Baseline(
                eval_loss=eval_loss,
                peak_memory_bytes=int(peak_memory_bytes),
                train_seconds=trial.train_seconds,
                tokens_per_second=trial.tokens_per_second or 0.0,
                test_loss=trial.test_loss,
                test_example_losses=trial.test_example_losses,
            )
    return baseline


def _has_objectives(trial: TrialRecord) -> bool:
    finite_loss = trial.eval_loss is not None and math.isfinite(trial.eval_loss)
    return finite_loss and trial.peak_memory_bytes is not None


def _point(trial: TrialRecord) -> tuple[float, float]:
    """Both objectives; only for trials that have them."""
    assert trial.eval_loss is not None
    assert trial.peak_memory_bytes is not None
    return trial.eval_loss, trial.peak_memory_bytes
