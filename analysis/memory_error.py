"""How well memory was predicted: what was predicted of each trial, beside what was then measured."""

from collections.abc import Iterable, Sequence
from statistics import median

from analysis.records import Front, MemoryPrediction, TrialRecord
from analysis.text import MISSING
from search.units import counted


def memory_ratio(trial: TrialRecord) -> float | None:
    """Measured over predicted peak memory; None where one of them is missing, or was itself predicted."""
    if trial.memory_source != "measured" or not trial.peak_memory_bytes or not trial.predicted_memory_bytes:
        return None
    return trial.peak_memory_bytes / trial.predicted_memory_bytes


def memory_error(trial: TrialRecord) -> float | None:
    """By how much the prediction was too high, as a share of what was measured (negative: too low); None if unknown."""
    ratio = memory_ratio(trial)
    return None if ratio is None else 1 / ratio - 1


def correction(trials: Iterable[TrialRecord]) -> float | None:
    """What predictions have to be multiplied by: the median of measured over predicted; None where nothing is known."""
    ratios = [ratio for trial in trials if (ratio := memory_ratio(trial)) is not None]
    return median(ratios) if ratios else None


def memory_prediction(trials: Sequence[TrialRecord]) -> MemoryPrediction | None:
    """How well the memory of ``trials`` was predicted; None where nothing can be compared."""
    errors = [abs(error) for trial in trials if (error := memory_error(trial)) is not None]
    ratio = correction(trials)
    if ratio is None:
        return None
    return MemoryPrediction(
        trials=len(errors), median_error=median(errors), largest_error=max(errors), correction=ratio
    )


def error_text(error: float | None) -> str:
    """A signed error in percent.

    >>> error_text(0.00062), error_text(-0.031), error_text(None)
    ('+0.06 %', '-3.1 %', '–')
    """
    if error is None:
        return MISSING
    return f"{error:+.2%}".replace("%", " %") if abs(error) < 0.01 else f"{error:+.1%}".replace("%", " %")


def memory_rows(front: Front) -> list[tuple[str, str]]:
    """What the report says of predicted against measured memory: headings and texts; empty where nothing is known."""
    known = front.memory_prediction
    if known is None:
        return []
    return [
        ("LoRA trials compared", str(known.trials)),
        ("median error", error_text(known.median_error).lstrip("+")),
        ("largest error", error_text(known.largest_error).lstrip("+")),
        ("measured / predicted, median", f"{known.correction:.4f}"),
    ]


def prediction_text(front: Front) -> str | None:
    """A sentence on how well memory was predicted; None where nothing can be compared."""
    known = front.memory_prediction
    if known is None:
        return None
    trials = counted(known.trials, "trial")
    median_error, largest = (error_text(e).lstrip("+") for e in (known.median_error, known.largest_error))
    return (
        f"Memory was predicted before {trials} ran: off by {median_error} in the median, {largest} at most."
    )
