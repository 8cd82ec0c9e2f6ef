import math
from pathlib import Path
from typing import Any

import pytest

from analysis.figure_style import drawn_loss, finite_loss, hover_text, loss_limits, memory_unit
from analysis.figures import (
    learning_curves_figure,
    parallel_coordinates_figure,
    quality_memory_figure,
    report_figures,
    write_front_png,
)
from analysis.records import Front, TrialRecord
from analysis.results import Run, load_run
from tests.analysis.synthetic import GIB, write_run

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def traces(figure: Any) -> dict[str, Any]:
    return {trace.name: trace for trace in figure.data if trace.name}


def front_of(tmp_path: Path, **options: Any) -> Front:
    return load_run(write_run(tmp_path / "run", **options)).front


def test_every_kind_of_trial_has_its_own_shape_and_colour(run: Run) -> None:
    by_name = traces(quality_memory_figure(run.front))
    assert set(by_name) == {
        "on the Pareto front",
        "completed, dominated",
        "stopped early (loss at their last rung)",
        "infeasible (at their predicted memory)",
        "recommended (knee of the front)",
        "full fine-tuning",
    }
    for attribute in ("symbol", "color"):
        values = [trace.marker[attribute] for trace in by_name.values()]
        assert len(set(values)) == len(values)


def test_points_lie_where_they_were_measured(run: Run) -> None:
    by_name = traces(quality_memory_figure(run.front))
    members = [trial for trial in run.front.trials if trial.on_front]
    front = by_name["on the Pareto front"]
    assert sorted(zip(front.x, front.y, strict=True)) == sorted(
        ((trial.peak_memory_bytes or 0) / GIB, trial.eval_loss) for trial in members
    )
    assert list(front.error_y.array) == [trial.eval_loss_stderr for trial in members]
    star = by_name["full fine-tuning"]
    assert (star.x[0], star.y[0]) == (pytest.approx(2.31), 2.81)
    assert run.front.headline is not None
    best = next(trial for trial in members if trial.trial_id == run.front.headline.trial_id)
    knee = by_name["recommended (knee of the front)"]
    assert (knee.x[0], knee.y[0]) == ((best.peak_memory_bytes or 0) / GIB, best.eval_loss)


def test_the_front_is_a_step_line_that_is_level_to_the_right(run: Run) -> None:
    line = next(trace for trace in quality_memory_figure(run.front).data if trace.mode == "lines")
    assert line.line.shape == "hv"
    assert list(line.x) == sorted(line.x)
    assert list(line.y) == sorted(line.y, reverse=True)
    assert line.y[-1] == line.y[-2]


def test_infeasible_trials_lie_along_the_top_edge(run: Run) -> None:
    trace = traces(quality_memory_figure(run.front))["infeasible (at their predicted memory)"]
    low, high = loss_limits(run.front)
    assert trace.x[0] == pytest.approx(2.31, abs=0.001)
    assert low + 0.9 * (high - low) < trace.y[0] < high


def test_a_diverged_trial_does_not_squeeze_the_others(run: Run) -> None:
    before = loss_limits(run.front)
    stopped = next(trial for trial in run.front.trials if trial.status == "stopped")
    stopped.eval_loss = 1e9
    assert loss_limits(run.front)[1] == before[1]
    assert drawn_loss(stopped, before) < before[1]
    stopped.eval_loss = math.nan
    assert finite_loss(stopped) is None
    quality_memory_figure(run.front).to_json()


def test_the_base_loss_and_a_near_budget_are_lines(run: Run) -> None:
    def lines(budget: int | None) -> list[tuple[float, float]]:
        return [(shape.x0, shape.y0) for shape in quality_memory_figure(run.front, budget).layout.shapes]

    assert lines(None) == [(0, 4.71)]
    assert lines(2 * GIB) == [(0, 4.71), (2, 0)]
    assert lines(80 * GIB) == [(0, 4.71)]  # would squeeze all trials to the left


def test_hover_shows_the_whole_config_and_escapes_what_users_name() -> None:
    trial = TrialRecord(
        trial_id="<i>t</i>",
        status="failed",
        config={"rank": 8, "targets": "<script>x</script>", "init": "pissa"},
        eval_loss=3.0,
        eval_loss_stderr=0.1,
        predicted_memory_bytes=GIB,
        error="<b>bad</b>",
    )
    text = hover_text(trial)
    assert "&lt;script&gt;" in text
    assert "&lt;b&gt;bad" in text
    assert "&lt;i&gt;t" in text
    for part in ("rank: 8", "init: pissa", "3.000 ± 0.100", "1.00 GiB (predicted)"):
        assert part in text


def test_learning_curves_hold_every_rung(run: Run) -> None:
    by_name = traces(learning_curves_figure(run.front))
    points = {(x, y) for trace in by_name.values() for x, y in zip(trace.x, trace.y, strict=True) if x}
    expected = {(r.examples_seen, r.eval_loss) for trial in run.front.trials for r in trial.rungs}
    assert points == expected
    members = [trial.trial_id for trial in run.front.trials if trial.on_front]
    assert {name for name in by_name if "(front)" in name} == {f"{trial_id} (front)" for trial_id in members}


def test_parallel_coordinates_show_only_what_was_searched(run: Run) -> None:
    figure = parallel_coordinates_figure(run.front)
    assert figure is not None
    labels = [dimension.label for dimension in figure.data[0].dimensions]
    assert labels == [
        "rank", "alpha / rank", "targets", "learning rate", "batch size", "memory (GiB)", "loss",
    ]  # fmt: skip
    assert all(len(dimension["values"]) == 14 for dimension in figure.data[0].dimensions)


@pytest.mark.parametrize(
    ("num_trials", "names"),
    [
        (0, set()),
        (1, {"quality_memory", "learning_curves", "importance"}),
        (2, {"quality_memory", "learning_curves", "importance", "parallel_coordinates"}),
        (200, {"quality_memory", "learning_curves", "importance", "parallel_coordinates"}),
    ],
)
def test_any_number_of_trials_can_be_drawn(tmp_path: Path, num_trials: int, names: set[str]) -> None:
    front = front_of(tmp_path, num_trials=num_trials, baseline=num_trials > 1, base=num_trials != 2)
    figures = report_figures(front)
    assert set(figures) == names
    for figure in figures.values():
        assert len(figure.data) < 20  # hundreds of traces would be slow
    write_front_png(front, tmp_path / "front.png")
    assert (tmp_path / "front.png").read_bytes().startswith(PNG_SIGNATURE)


def test_a_sweep_in_which_everything_failed_can_be_drawn(run: Run, tmp_path: Path) -> None:
    for trial in run.front.trials:
        trial.status, trial.on_front, trial.rungs = "failed", False, []
        trial.eval_loss = trial.peak_memory_bytes = None
    front = run.front.model_copy(update={"baseline": None, "headline": None})
    assert set(report_figures(front)) == {"importance"}
    write_front_png(front, tmp_path / "front.png")


def test_memory_is_in_mebibytes_below_one_gibibyte(tmp_path: Path) -> None:
    front = front_of(tmp_path, num_trials=1, baseline=False)
    assert memory_unit(front) == (2**20, "MiB")
    assert memory_unit(front_of(tmp_path / "b", num_trials=1)) == (GIB, "GiB")


def test_the_picture_is_large_enough_to_read(run: Run, tmp_path: Path) -> None:
    write_front_png(run.front, tmp_path / "front.png")
    header = (tmp_path / "front.png").read_bytes()[16:24]
    width, height = int.from_bytes(header[:4], "big"), int.from_bytes(header[4:], "big")
    assert width >= 1200
    assert height >= 700
