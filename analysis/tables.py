"""A sweep's trials as terminal tables, at most 100 columns wide, and as wide as a terminal of 80 where that is all."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from analysis.confirmed import against_full_rows, confirmed_rows
from analysis.front import front_members
from analysis.headline import headline_lines, recommended
from analysis.records import Front, TrialRecord
from analysis.text import MISSING, loss_text, number_text, short_label, varying_keys
from search.units import format_memory

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["front_table", "headline_lines", "ordered_trials", "trials_table"]

_STATUS_ORDER = ("completed", "running", "stopped", "infeasible", "failed")
_STATUS_STYLES = {"completed": "green", "running": "cyan", "stopped": "yellow", "infeasible": "magenta"}
# With more setting columns than these a line no longer fits 100 columns.
_MAX_SETTINGS = 5
_WIDE = 100  # columns of a terminal in which everything fits
_DEFAULT_SETTINGS = ["rank", "alpha", "targets", "learning_rate", "batch_size"]


def ordered_trials(front: Front) -> list[TrialRecord]:
    """Front members first, least memory first; then the others by status and loss."""
    others = [trial for trial in front.trials if not trial.on_front]
    by_status = {status: rank for rank, status in enumerate(_STATUS_ORDER)}
    others.sort(key=lambda trial: (by_status[trial.status], trial.eval_loss is None, trial.eval_loss or 0.0))
    return front_members(front) + others


def trials_table(front: Front, width: int = _WIDE) -> "Table":
    """All trials, front members first, for a terminal of ``width`` columns."""
    return _table(front, ordered_trials(front), f"Trials of {front.name}", width)


def front_table(front: Front, width: int = _WIDE) -> "Table":
    """Only the front, least memory first, for a terminal of ``width`` columns; the recommended trial is marked."""
    return _table(front, front_members(front), f"Pareto front of {front.name}", width)


def confirmation_table(front: Front) -> "Table | None":
    """The front's members on the test split with new seeds; None before they were trained again."""
    from rich.text import Text

    rows = confirmed_rows(front)
    if not rows:
        return None
    title = "Confirmed with new seeds on the test split (mean and 95 % interval)"
    table = _plain_table(title)
    table.min_width = len(title)
    table.add_column("trial", no_wrap=True)
    for heading in ("seeds", "validation", "test"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("")
    for row in rows:
        cells = (row.trial_id, row.seeds, row.eval_loss, row.test_loss, row.note)
        table.add_row(*map(Text, cells), style="dim" if row.is_beaten else "")
    return table


def against_full_table(front: Front) -> "Table | None":
    """The recommended, the best and the smallest member against full fine-tuning; None where nothing is known."""
    from rich.text import Text

    rows = against_full_rows(front)
    if not rows:
        return None
    table = _plain_table("Against full fine-tuning", gap=1)
    table.add_column("trial", no_wrap=True)
    table.add_column("")
    for heading in ("gain kept", "on test", "memory", "speed"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        cells = (row.trial_id, row.pick, row.retention, row.test_retention, row.memory, row.speed)
        table.add_row(*map(Text, cells))
    return table


def _plain_table(title: str, gap: int = 2) -> "Table":
    """An empty table as all are drawn here, ``gap`` blanks between columns.

    The title is text, not markup, as users name runs.
    """
    from rich.table import Table
    from rich.text import Text

    return Table(
        title=Text(title),
        title_justify="left",
        box=None,
        pad_edge=False,
        padding=(0, 1, 0, gap - 1),
        header_style="bold",
    )


def _table(front: Front, trials: Iterable[TrialRecord], title: str, width: int) -> "Table":
    """Where ``width`` is too little, the speeds are left out rather than digits of the settings."""
    from rich.text import Text

    settings = (varying_keys(front.trials) or _DEFAULT_SETTINGS)[:_MAX_SETTINGS]
    results = ("loss", "memory", "tokens/s") if width >= _WIDE else ("loss", "memory")
    table = _plain_table(title, gap=2 if width >= _WIDE else 1)
    for heading in ("", "trial", "status"):
        table.add_column(heading, no_wrap=True)
    for key in settings:
        table.add_column(short_label(key), justify="right", overflow="ellipsis", max_width=14)
    for heading in results:
        table.add_column(heading, justify="right", no_wrap=True)
    best = recommended(front)
    for trial in trials:
        mark = "★" if best and trial.trial_id == best.trial_id else "●" if trial.on_front else ""
        cells = [
            mark,
            trial.trial_id,
            trial.status,
            *(number_text(trial.config.get(key)) for key in settings),
        ]
        cells += [loss_text(trial.eval_loss, trial.eval_loss_stderr), _memory_text(trial), _speed_text(trial)]
        style = "bold" if trial.on_front else ""
        row = [Text(cell) for cell in cells]  # Text, not markup: users name trials and target sets
        row[2].stylize(_STATUS_STYLES.get(trial.status, "red"))
        table.add_row(*row[: len(table.columns)], style=style)
    if table.row_count:
        table.caption = Text("★ recommended (knee)   ● on the Pareto front")
        table.caption_justify = "left"
    return table


def _memory_text(trial: TrialRecord) -> str:
    """The measured peak; a predicted one is marked as such."""
    if trial.peak_memory_bytes is not None and trial.memory_source != "predicted":
        return format_memory(trial.peak_memory_bytes)
    predicted = trial.peak_memory_bytes or trial.predicted_memory_bytes
    return MISSING if predicted is None else f"~{format_memory(predicted)}"


def _speed_text(trial: TrialRecord) -> str:
    return MISSING if trial.tokens_per_second is None else f"{trial.tokens_per_second:,.0f}"
