"""The floor, GPU, start and growth benchmarks: what their numbers are made of. The runs themselves are no tests."""

import pytest

from tests.benchmarks.floor.report import largest_difference, verdict
from tests.benchmarks.floor.report import table_rows as floor_rows
from tests.benchmarks.gpu.report import table_rows as gpu_rows
from tests.benchmarks.gpu.report import verdicts as gpu_verdicts
from tests.benchmarks.growth.points import Point, all_points, lines
from tests.benchmarks.growth.report import curve, exponent, per_unit, verdicts
from tests.benchmarks.growth.report import table_rows as growth_rows
from tests.benchmarks.start import table_rows as start_rows


def run(speed: float, peak: int, losses: list[float]) -> dict[str, object]:
    return {"tokens_per_second": speed, "tokens_per_cpu_second": speed, "peak_bytes": peak, "losses": losses}


def test_a_contender_is_measured_by_the_bare_run_next_to_it() -> None:
    mib = 2**20
    runs = {
        "ours": [run(200.0, mib, [3.0, 2.5]), run(330.0, mib, [3.0, 2.5])],
        "ours-trial": [run(100.0, mib, [])],
        "bare": [run(200.0, 2 * mib, [3.0, 2.0]), run(300.0, 2 * mib, [3.0, 2.0])],
    }
    mine, trial, floor = floor_rows(runs)
    assert mine[:3] == ["ours", "265 (200 to 330)", "1.05 (1.00 to 1.10)"]
    assert mine[4:] == ["1", "0.50", "0.5000"]
    assert trial[-1] == "-"
    assert floor[-1] == "0.0000"
    assert "the target of 0.95 is met" in verdict(runs)
    assert "missed" in verdict({**runs, "ours": [run(180.0, mib, [])]})
    with pytest.raises(ValueError, match="zip"):
        largest_difference([1.0], [1.0, 2.0])


def test_a_gpu_run_is_measured_by_its_bare_loop_its_card_and_its_prediction() -> None:
    def on_gpu(speed: float, gib: float | None, flops: float = 5e9) -> dict[str, object]:
        return {"tokens_per_second": speed, "flops_per_token": flops, "peak_bytes": gib and gib * 2**30}

    runs = {
        "lora": [on_gpu(3e4, 10.0), on_gpu(4e4, 10.0)],
        "full": [on_gpu(2e4, 40.0), on_gpu(2e4, 40.0)],
        "bare": [on_gpu(2e4, None), on_gpu(2e4, None)],
        "trainer-full": [on_gpu(1e4, None, 0.0)],
    }
    lora, full, bare, trainer = gpu_rows(runs, {"lora": 9 * 2**30}, 1e15)
    assert lora[2:4] == ["1.75 (1.50 to 2.00)", "0.17 (0.15 to 0.20)"]
    assert lora[5:] == ["10.00", "9.00 (-10.0%)"]
    assert full[2] == "-"
    assert bare[5:] == trainer[5:] == ["-", "-"]
    assert trainer[3] == "-"
    (said,) = gpu_verdicts(runs)
    assert "1.75 (1.50 to 2.00) times" in said
    assert "in 25% of its memory" in said


def point(curve_name: str, x: int, seconds: float, *, again: bool = False) -> dict[str, object]:
    own = {"curve": curve_name, "x": x, "again": again, "phases": {"start": 1.0}}
    own |= {"makespan_seconds": seconds, "driver_cpu_seconds": seconds, "cpu_seconds": seconds}
    return own | {"peak_root_bytes": 0, "peak_pss_bytes": 0}


@pytest.mark.parametrize(
    ("power", "word"), [(1.0, "linear or less"), (2.0, "SUPERLINEAR"), (0.5, "linear or less")]
)
def test_growth_is_told_from_what_every_sweep_costs(power: float, word: str) -> None:
    found = [point("trials", x, 30.0 + 0.01 * x**power) for x in (256, 16, 32, 64, 128)]
    assert [p["x"] for p in curve(found, "trials")] == [16, 32, 64, 128, 256]
    assert exponent(curve(found, "trials"), "makespan_seconds") == pytest.approx(power, abs=0.3)
    for line in verdicts(found):
        assert line.endswith(word)


def test_too_few_points_have_no_exponent() -> None:
    found = [point("trials", 16, 1.0), point("trials", 32, 2.0)]
    assert exponent(found, "makespan_seconds") is None
    assert verdicts(found) == []
    assert per_unit(found, "makespan_seconds") == [1 / 16]


def test_a_repeated_point_is_shown_but_is_none_of_the_curve() -> None:
    found = [point("rows", 1_000, 5.0), point("rows", 2_000, 7.0), point("rows", 2_000, 6.0, again=True)]
    assert len(curve(found, "rows")) == 2
    assert [row[0] for row in growth_rows(found)] == ["1,000 rows", "2,000 rows", "2,000 rows again"]
    assert growth_rows(found)[1][3] == "2"


def test_points_have_names_of_their_own_and_rows_are_all_different() -> None:
    for quick in (True, False):
        names = [one.name for one in all_points(quick)]
        assert len(set(names)) == len(names)
    assert all_points(False)[-1] == Point("rows", trials=4, rows=1_000_000, again=True)
    assert len(set(lines(100))) == 100


def test_start_is_judged_by_the_median() -> None:
    found = [
        {"what": "a", "target": 1.0, "seconds": [0.5, 0.9, 3.0], "cpu_seconds": [0.4]},
        {"what": "b", "target": 1.0, "seconds": [0.5, 1.1, 1.2]},
        {"what": "c", "target": None, "seconds": [5.0]},
    ]
    rows = start_rows(found)
    assert [row[-1] for row in rows] == ["yes", "NO", ""]
    assert rows[0][1:3] == ["0.90 (0.50 to 3.00)", "0.40"]
