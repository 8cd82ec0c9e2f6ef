"""What a front's members are worth, in words: confirmed with new seeds, and against full fine-tuning."""

from collections.abc import Callable
from dataclasses import dataclass

from analysis.front import front_members, picks
from analysis.intervals import Interval
from analysis.records import Confirmation, Front, Headline, TrialRecord
from analysis.text import MISSING, loss_text, percent_text

_PICK_NAMES = {"knee": "recommended", "quality": "best quality", "memory": "least memory"}


@dataclass(frozen=True)
class ConfirmedRow:
    """A member's loss on the validation split, by which it was picked, apart from that on the test split."""

    trial_id: str
    eval_loss: str
    test_loss: str
    seeds: str
    note: str
    is_beaten: bool


@dataclass(frozen=True)
class AgainstFull:
    """One of the members that people ask for, against full fine-tuning."""

    pick: str
    trial_id: str
    retention: str
    test_retention: str
    memory: str
    speed: str


def confirmed_rows(front: Front) -> list[ConfirmedRow]:
    """The members that were trained again, least memory first; none before."""
    return [_confirmed_row(trial, trial.confirmation) for trial in front_members(front) if trial.confirmation]


def _confirmed_row(trial: TrialRecord, found: Confirmation) -> ConfirmedRow:
    failed = f", {len(found.failed_seeds)} failed" if found.failed_seeds else ""
    if found.beaten_by:
        note = f"beaten by {', '.join(found.beaten_by)}: lower test loss in no more memory"
    elif found.not_better_than:
        note = f"not told apart from {', '.join(found.not_better_than)}, in less memory"
    else:
        note = ""
    return ConfirmedRow(
        trial.trial_id,
        loss_text(trial.eval_loss, trial.eval_loss_stderr),
        f"{found.test_loss:.3f}{interval_text(found.test_interval, loss_text)}",
        f"{len(found.seeds)}{failed}",
        note,
        bool(found.beaten_by),
    )


def interval_text(interval: Interval | None, form: Callable[[float], str]) -> str:
    """An interval in brackets, with a space before it; nothing where there is none.

    >>> interval_text((3.1, 3.4), loss_text), interval_text(None, loss_text)
    (' [3.100, 3.400]', '')
    """
    return "" if interval is None else f" [{form(interval[0])}, {form(interval[1])}]"


def against_full_rows(front: Front) -> list[AgainstFull]:
    """The recommended, the best and the smallest member; one row for each trial."""
    rows = []
    chosen = picks(front_members(front))
    for trial_id in dict.fromkeys(trial.trial_id for trial in chosen.values()):
        names = [name for name, trial in chosen.items() if trial.trial_id == trial_id]
        headline = front.headlines.get(names[0])
        if headline is not None:
            rows.append(_against_full(", ".join(_PICK_NAMES[name] for name in names), headline))
    return rows


def _against_full(pick: str, headline: Headline) -> AgainstFull:
    predicted = " (of a prediction)" if headline.memory_source == "predicted" else ""
    return AgainstFull(
        pick,
        headline.trial_id,
        _percent(headline.retention),
        _percent(headline.test_retention) + interval_text(headline.test_retention_interval, percent_text),
        f"{percent_text(headline.memory_ratio)}{predicted}",
        MISSING
        if headline.speedup is None
        else f"{headline.speedup:.2f} ×{interval_text(headline.speedup_interval, '{:.2f}'.format)}",
    )


def _percent(share: float | None) -> str:
    return MISSING if share is None else percent_text(share)


def picked_from_text(front: Front) -> str:
    """From how many evaluations the recommended trial was picked."""
    evaluations = sum(len(trial.rungs) for trial in front.trials)
    completed = sum(trial.status == "completed" for trial in front.trials)
    return (
        f"Picked from {completed} completed of {len(front.trials)} LoRA trials, after {evaluations} "
        "evaluations on the validation examples."
    )
