import io
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

from analysis.results import Run, load_run
from analysis.tables import front_table, ordered_trials, trials_table
from tests.analysis.synthetic import write_run


def text_of(table: Table, width: int = 100) -> list[str]:
    console = Console(width=width, color_system=None, record=True, file=io.StringIO())
    console.print(table)
    return console.export_text().splitlines()


def test_all_trials_fit_in_a_hundred_columns_front_first(run: Run) -> None:
    lines = text_of(trials_table(run.front))
    assert max(map(len, lines)) <= 100
    rows = [line for line in lines if " t0" in line]
    assert len(rows) == 16
    members = [trial for trial in run.front.trials if trial.on_front]
    assert all(line.startswith(("★", "●")) for line in rows[: len(members)])
    assert not any(line.startswith(("★", "●")) for line in rows[len(members) :])
    assert sum(line.startswith("★") for line in rows) == 1
    assert not any("…" in line for line in rows)


def test_a_narrow_terminal_shows_all_digits_of_the_settings(run: Run) -> None:
    lines = text_of(trials_table(run.front, 80), 80)
    rows = [line for line in lines if " t0" in line]
    assert len(rows) == 16
    assert not any("…" in line.replace("attention-…", "") for line in lines)  # numbers are whole
    assert "tokens/s" not in lines[1]


def test_the_front_alone(run: Run) -> None:
    rows = [line for line in text_of(front_table(run.front)) if " t0" in line]
    assert len(rows) == sum(trial.on_front for trial in run.front.trials)


def test_predicted_memory_is_marked(run: Run) -> None:
    row = next(line for line in text_of(trials_table(run.front)) if "infeasible" in line)
    assert "~2.31 GiB" in row


def test_others_follow_by_status_and_loss(run: Run) -> None:
    statuses = [trial.status for trial in ordered_trials(run.front)]
    assert statuses[-2:] == ["infeasible", "failed"]
    stopped = [trial.eval_loss or 0.0 for trial in ordered_trials(run.front) if trial.status == "stopped"]
    assert stopped == sorted(stopped)


@pytest.mark.parametrize("num_trials", [0, 1, 2])
def test_few_trials(tmp_path: Path, num_trials: int) -> None:
    front = load_run(write_run(tmp_path / "run", num_trials=num_trials)).front
    assert sum(" t0" in line for line in text_of(trials_table(front))) == num_trials


def test_names_are_not_read_as_markup(run: Run) -> None:
    run.front.trials[0].config["targets"] = "[red]mine"
    run.front.name = "[bold]run"
    text = "\n".join(text_of(trials_table(run.front)))
    assert "[red]mine" in text
    assert "[bold]run" in text
