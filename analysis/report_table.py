"""The report's table of all trials, as plain data."""

from dataclasses import dataclass
from typing import Any

from analysis.headline import recommended
from analysis.memory_error import error_text, memory_error
from analysis.records import TrialRecord
from analysis.results import Run
from analysis.tables import ordered_trials
from analysis.text import MISSING, loss_text, number_text, varying_keys
from search.units import format_duration, format_memory

_ALWAYS_SHOWN = ("rank", "alpha", "targets", "learning_rate", "batch_size")
# The part of a config that full fine-tuning uses; the rest of its record is defaults.
_FULL_KEYS = ("learning_rate", "batch_size", "weight_decay", "warmup_ratio")


# More would make the page slow: a row has about 2 KB.
MOST_ROWS = 1000


@dataclass(frozen=True)
class Cell:
    """A table cell: its text, and what it sorts by (None sorts last)."""

    text: str
    sort: float | str | None
    numeric: bool = True


@dataclass(frozen=True)
class Row:
    """One trial in the table."""

    trial: TrialRecord
    marks: str
    cells: list[Cell]


def table_columns(run: Run) -> list[str]:
    """Config keys that get a column: the best-known ones, and all others that differ between trials."""
    present = {key for trial in run.front.trials for key in trial.config}
    first = [key for key in _ALWAYS_SHOWN if key in present]
    return first + [key for key in varying_keys(run.front.trials) if key not in first]


def rows_left_out(run: Run) -> int:
    """How many trials the table leaves out."""
    return max(0, len(run.front.trials) - MOST_ROWS)


def table_rows(run: Run) -> list[Row]:
    """The first `MOST_ROWS` trials, front members and the best first, full fine-tuning last."""
    trials = ordered_trials(run.front)[:MOST_ROWS]
    if run.full_trial is not None:
        trials.append(run.full_trial)
    best = recommended(run.front)
    columns = table_columns(run)
    return [_row(trial, columns, is_best=trial is best) for trial in trials]


def _row(trial: TrialRecord, columns: list[str], *, is_best: bool) -> Row:
    is_full = trial.kind == "full"
    config = {key: trial.config.get(key) for key in _FULL_KEYS} if is_full else trial.config
    config = {"targets": "every weight", **config}
    peak, predicted, speed = trial.peak_memory_bytes, trial.predicted_memory_bytes, trial.tokens_per_second
    memory = (
        format_memory(peak) if peak is not None else f"~{format_memory(predicted)}" if predicted else MISSING
    )
    measured = [
        Cell(loss_text(trial.eval_loss, trial.eval_loss_stderr), trial.eval_loss),
        Cell(loss_text(trial.test_loss), trial.test_loss),
        Cell(memory, peak if peak is not None else predicted),
        Cell(error_text(memory_error(trial)), memory_error(trial)),
        Cell(MISSING if speed is None else f"{speed:,.0f}", speed),
        Cell(str(trial.examples_seen), trial.examples_seen),
        Cell(format_duration(trial.train_seconds), trial.train_seconds),
    ]
    marks = "◆" if is_full else "★" if is_best else "●" if trial.on_front else ""
    return Row(trial, marks, [_cell(config.get(key)) for key in columns] + measured)


def _cell(value: Any) -> Cell:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return Cell(number_text(value), value if is_number or value is None else str(value), numeric=is_number)
