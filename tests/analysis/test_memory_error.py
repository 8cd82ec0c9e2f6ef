"""Predicted against measured memory: what can be compared, and how it is summed up."""

from pathlib import Path
from typing import Any

import pytest

from analysis.memory_error import (
    correction,
    error_text,
    memory_error,
    memory_prediction,
    memory_ratio,
    memory_rows,
    prediction_text,
)
from analysis.records import TrialRecord
from analysis.results import load_run, read_events
from tests.analysis.synthetic import write_events, write_run
from tests.analysis.test_front import front_of


def trial(measured: int | None, predicted: int | None, **changes: Any) -> TrialRecord:
    fields: dict[str, Any] = {"trial_id": f"t{measured}", "config": {"rank": 8}, "memory_source": "measured"}
    fields |= {"peak_memory_bytes": measured, "predicted_memory_bytes": predicted, "eval_loss": 3.0}
    return TrialRecord(**(fields | changes))


def test_the_error_is_what_was_predicted_too_much() -> None:
    assert memory_error(trial(1000, 1100)) == pytest.approx(0.1)
    assert memory_error(trial(1000, 900)) == pytest.approx(-0.1)
    assert memory_ratio(trial(1100, 1000)) == pytest.approx(1.1)


@pytest.mark.parametrize(
    "record",
    [
        trial(1000, 1100, memory_source="predicted"),
        trial(None, 1100),
        trial(1000, None),
        trial(1000, 1100, memory_source=None),
    ],
    ids=["predicted", "not measured", "not predicted", "unknown source"],
)
def test_what_was_not_measured_and_predicted_has_no_error(record: TrialRecord) -> None:
    assert memory_error(record) is None
    assert memory_prediction([record]) is None
    assert correction([record]) is None


def test_summed_up_by_size_and_corrected_by_the_median() -> None:
    found = memory_prediction([trial(1000, 1100), trial(1000, 980), trial(1000, 1000), trial(None, 5)])
    assert found is not None
    assert found.trials == 3
    assert found.median_error == pytest.approx(0.02)
    assert found.largest_error == pytest.approx(0.1)
    assert found.correction == pytest.approx(1.0)
    assert correction([trial(1000, 1100), trial(1000, 900)]) == pytest.approx((1 / 1.1 + 1 / 0.9) / 2)


def test_the_front_has_it_of_lora_trials_only() -> None:
    full = trial(1000, 500, kind="full", status="completed")
    front = front_of(trial(1000, 1010, status="stopped"), full)
    assert front.memory_prediction is not None
    assert (front.memory_prediction.trials, front.memory_prediction.largest_error) == (1, pytest.approx(0.01))
    assert (
        prediction_text(front)
        == "Memory was predicted before 1 trial ran: off by 1.0 % in the median, 1.0 % at most."
    )
    empty = front_of(trial(None, 1010))
    assert (empty.memory_prediction, prediction_text(empty), memory_rows(empty)) == (None, None, [])


def test_the_table_shows_errors_where_memory_was_measured(tmp_path: Path) -> None:
    from analysis.report_table import table_rows

    run = load_run(write_run(tmp_path / "run"))
    rows = {row.trial.trial_id: row for row in table_rows(run)}
    place = [cell.text for cell in rows["t000"].cells].index("+0.40 %")
    assert rows["t000"].cells[place].sort == pytest.approx(0.004, rel=1e-3)
    assert rows["t003"].cells[place].text == "–"  # infeasible: only predicted
    assert rows["t003"].cells[place].sort is None
    assert rows["baseline"].cells[place].text == "–"  # not predicted
    assert len({len(row.cells) for row in rows.values()}) == 1


def test_the_report_has_a_card_of_it_where_something_was_measured(tmp_path: Path) -> None:
    from analysis.report import render_report

    run_dir = write_run(tmp_path / "run")
    html = render_report(load_run(run_dir))
    for text in (
        "Memory, predicted and measured",
        "<dd>14</dd>",
        "<dd>0.40 %</dd>",
        "<th>error</th>",
        "0.9960",
    ):
        assert text in html
    headings = html[html.index("<thead><tr>\n      <th></th><th>trial") :].split("</tr>")[0].count("<th>")
    cells = html[html.index('<td data-sort="1">') :].split("</tr>")[0].count("<td")
    assert headings == cells
    events = read_events(run_dir / "trials.jsonl")
    for event in events:
        if event.trial is not None:
            event.trial.predicted_memory_bytes = None
    write_events(run_dir, events)
    assert "Memory, predicted and measured" not in render_report(load_run(run_dir))


@pytest.mark.parametrize(
    ("error", "text"),
    [(0.0, "+0.00 %"), (-0.00049, "-0.05 %"), (0.01, "+1.0 %"), (-0.25, "-25.0 %"), (None, "–")],
)
def test_errors_are_shown_in_percent(error: float | None, text: str) -> None:
    assert error_text(error) == text
