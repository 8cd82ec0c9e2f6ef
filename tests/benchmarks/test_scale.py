"""The scale benchmark, on a sweep of few trials: everything takes part, and the figures add up."""

from collections import Counter
from pathlib import Path

import pytest

from analysis.results import load_run
from tests.benchmarks.replay.synthetic import write_table
from tests.benchmarks.replay.table import CurveTable
from tests.benchmarks.scale.measure import measure
from tests.benchmarks.scale.report import exponent, load, section, table
from tests.benchmarks.scale.stopwatch import Stopwatch


def test_a_small_sweep_writes_a_real_run_folder(tmp_path: Path) -> None:
    curves = CurveTable.load(write_table(tmp_path / "table.jsonl", 60), answers="nearest")
    found = measure(tmp_path / "run", curves, 24, devices=4, examples=8)
    run = load_run(tmp_path / "run")
    assert Counter(trial.status for trial in run.front.trials) == found["statuses"]
    assert sum(found["statuses"].values()) == 24
    assert found["statuses"]["completed"] > 0
    assert found["problems"] == []
    assert found["stranded"] == 0
    assert {"optuna.db", "mlflow.db", "trials.jsonl", "front.json"} <= found["bytes"].keys()
    assert found["mlflow_in_all"]["calls"]["create_run"] >= 24
    assert {"scheduler", "sampler", "study (SQLite)", "journal", "recorder"} <= found["parts"].keys()
    columns, rows = table([found])
    assert columns[1] == "24 trials"
    assert all(len(row) == len(columns) for row in rows)
    assert load(found)["taken"] > 0
    assert "4 devices" in section([found], [], None)


def test_a_part_inside_another_is_counted_once() -> None:
    watch = Stopwatch()
    inner = watch.timed("inner", lambda: sum(range(200_000)))
    outer = watch.timed("outer", inner)
    outer()
    assert watch.parts["outer"].cpu_seconds < watch.parts["inner"].cpu_seconds
    assert (watch.parts["outer"].calls, watch.parts["inner"].calls) == (1, 1)


def test_growth_is_a_power_of_the_number_of_trials() -> None:
    assert exponent(1.0, 100.0, [1_000, 10_000]) == pytest.approx(2.0)
    assert exponent(3.0, 30.0, [1_000, 10_000]) == pytest.approx(1.0)
