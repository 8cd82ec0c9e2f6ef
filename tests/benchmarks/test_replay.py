"""The replay simulator: Tune's order of calls, virtual time, answers from the table, and scores."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, HyperBandScheduler
from ray.tune.search import Searcher

from search.errors import InputError
from tests.benchmarks.replay import report, synthetic
from tests.benchmarks.replay.compare import best_setting, compare, ratios, replay
from tests.benchmarks.replay.ours import Setting, ours, sweep_config
from tests.benchmarks.replay.rivals import Competitor, all_competitors, random_search
from tests.benchmarks.replay.run import ERROR, TERMINATED, Completion, Run
from tests.benchmarks.replay.scores import Curve, found_share, is_complete, score
from tests.benchmarks.replay.simulator import Simulator
from tests.benchmarks.replay.synthetic import table_lines, write_table
from tests.benchmarks.replay.table import CurveTable

RUNGS = [16, 48, 144]


def line(loss: float = 3.0, memory: int = 100, **config: Any) -> dict[str, Any]:
    """One row: begin 1 s; rungs of 2, 4 and 12 s of training with 1 s of evaluation each."""
    setting = {"rank": 8, "alpha": 16.0, "targets": "mlp", "learning_rate": 1e-3, "batch_size": 4} | config
    times = (2.0, 6.0, 18.0)
    rungs = [
        {
            "examples_seen": n,
            "eval_loss": loss + 2 - k,
            "eval_loss_stderr": 0.1,
            "train_seconds": t,
            "eval_seconds": 1.0,
        }
        for k, (n, t) in enumerate(zip(RUNGS, times, strict=True))
    ]
    return {"config": setting, "begin_seconds": 1.0, "peak_memory_bytes": memory, "rungs": rungs}


def write(path: Path, *rows: dict[str, Any], **header: Any) -> Path:
    lines = [{"size": "smollm2-135m", "rungs": RUNGS, **header}, *rows]
    text = "".join(json.dumps(row) + "\n" for row in lines)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def load(folder: Path, *rows: dict[str, Any], **header: Any) -> CurveTable:
    return CurveTable.load(write(folder / "table.jsonl", *rows, **header), answers="nearest")


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> CurveTable:
    path = write_table(tmp_path_factory.mktemp("curves") / "made.jsonl", 60)
    return CurveTable.load(path, answers="nearest")


@pytest.fixture(scope="module")
def interpolated(tmp_path_factory: pytest.TempPathFactory) -> CurveTable:
    return CurveTable.load(write_table(tmp_path_factory.mktemp("curves") / "made.jsonl", 80))


class Given(Searcher):  # type: ignore[misc]
    """Suggests given configs and notes what it is told."""

    def __init__(self, *configs: dict[str, Any]) -> None:
        super().__init__()
        self.configs, self.log = list(configs), []  # type: ignore[var-annotated]

    def suggest(self, trial_id: str) -> Any:
        return self.configs.pop(0) if self.configs else Searcher.FINISHED

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        self.log.append(("searcher result", trial_id, result["examples_seen"]))

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        self.log.append(("searcher complete", trial_id, "error" if error else bool(result)))


class Scripted(FIFOScheduler):  # type: ignore[misc]
    """Decides by (trial id, examples), else CONTINUE, and notes the calls into the searcher's log."""

    def __init__(self, log: list[Any], decisions: dict[tuple[str, int], Any] | None = None) -> None:
        super().__init__()
        self.log, self.decisions = log, decisions or {}

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        self.log.append(("add", trial.trial_id))

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        self.log.append(("result", trial.trial_id, result["examples_seen"]))
        decision = self.decisions.get((trial.trial_id, result["examples_seen"]), "CONTINUE")
        return str(decision(tune_controller) if callable(decision) else decision)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        self.log.append(("complete", trial.trial_id, result["examples_seen"]))

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        self.log.append(("remove", trial.trial_id))

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        self.log.append(("error", trial.trial_id))


def scripted(
    table: CurveTable, trials: int, decisions: Any = None, workers: int = 1, **more: Any
) -> Simulator:
    searcher = Given(*[dict(table.rows[0].config)] * trials)
    return Simulator(table, searcher, Scripted(searcher.log, decisions), workers, **more)


# The table.


def test_files_are_merged_plain_and_gzipped_and_a_cut_off_line_is_left_out(tmp_path: Path) -> None:
    first = write(tmp_path / "a.jsonl", line(3.0))
    with first.open("a") as file:
        file.write('{"config": {"ra')
    second = write(tmp_path / "b.jsonl.gz", line(3.5, 90), line(3.2, 95))
    table = CurveTable.load(first, second, answers="nearest")
    assert [row.point for row in table.rows] == [(3.0, 100.0), (3.5, 90.0), (3.2, 95.0)]
    assert [rung.train_seconds for rung in table.rows[0].rungs] == [2.0, 4.0, 12.0]
    assert table.rows[0].seconds == 1 + 18 + 3
    assert table.reference == (3.5, 100.0)
    assert table.hypervolume == pytest.approx((3.5 - 3.2) * (100 - 95))


@pytest.mark.parametrize(
    ("rows", "header", "message"),
    [
        ([], {}, "no complete curves"),
        ([{"config": {}}], {}, r"line 2: not a curve"),
        ([{**line(), "rungs": line()["rungs"][:2]}], {}, r"has rungs \[16, 48\], the header \[16, 48, 144\]"),
        ([line(float("nan"))], {}, "not finite"),
    ],
)
def test_a_bad_table_is_one_clear_line(tmp_path: Path, rows: Any, header: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load(tmp_path, *rows, **header)


def test_tables_of_different_rungs_do_not_mix(tmp_path: Path) -> None:
    other = write(tmp_path / "b.jsonl", line(), data={"fingerprint": "another"})
    with pytest.raises(InputError, match="data is not that of"):
        CurveTable.load(write(tmp_path / "a.jsonl", line()), other)


def test_the_nearest_row_has_the_same_discrete_settings_where_there_are_such(tmp_path: Path) -> None:
    rows = [
        line(learning_rate=1e-3),
        line(learning_rate=2e-4),
        line(rank=64, alpha=128.0),
        line(targets="attention", learning_rate=2e-3, batch_size=8),
        line(targets="attention", rank=2, alpha=4.0),
    ]
    table = load(tmp_path, *rows)
    config = dict(table.rows[0].config)
    assert table.nearest(config | {"learning_rate": 3e-4}) == 1
    assert table.nearest(config | {"learning_rate": 6e-4}) == 0
    assert table.nearest(config | {"rank": 32, "alpha": 64.0}) == 2  # no row of rank 32: the nearest rank
    # Given the batch size, it is matched before the rank; alpha_ratio serves as well as alpha.
    plain = {"rank": 2, "alpha_ratio": 2.0, "targets": "attention", "learning_rate": 1e-3, "batch_size": 8}
    assert table.nearest(plain) == 3
    assert table.nearest(plain | {"targets": "all-linear", "batch_size": 4}) == 4


def test_an_interpolated_answer_at_a_recorded_config_is_the_recording(interpolated: CurveTable) -> None:
    for index in (0, 7, 42):
        recorded = interpolated.rows[index]
        found, row = interpolated.answer(recorded.config)
        assert found == index
        assert [rung.eval_loss for rung in row.rungs] == pytest.approx([r.eval_loss for r in recorded.rungs])
        assert row.peak_memory_bytes == pytest.approx(recorded.peak_memory_bytes, rel=1e-9)
        assert row.seconds == pytest.approx(recorded.seconds)
        assert row.rungs[0].example_losses == pytest.approx(recorded.rungs[0].example_losses)


def test_between_recorded_configs_the_answer_follows_what_the_curves_really_are(
    interpolated: CurveTable,
) -> None:
    random = np.random.default_rng(5)
    configs = [synthetic.draw_config(random) for _ in range(60)]
    truth = np.array([synthetic.BASE_LOSS - synthetic.final_gain(config, 144) for config in configs])
    answers = [interpolated.answer(config) for config in configs]
    losses = np.array([row.rungs[-1].eval_loss for _, row in answers])
    nearest = np.array([interpolated.rows[index].rungs[-1].eval_loss for index, _ in answers])
    assert np.std(losses - truth) < 0.75 * np.std(nearest - truth)
    assert np.std(losses - truth) < 0.25 * np.std(truth)
    assert interpolated.interpolation.loss_error < 0.25 * np.std(truth)
    memory = np.array([row.peak_memory_bytes for _, row in answers])
    real = np.array([synthetic.memory_bytes(config) for config in configs])
    assert np.median(np.abs(memory / real - 1)) < 0.02
    config = configs[0] | {"learning_rate": 1e-3}
    near = config | {"learning_rate": 1.01e-3}
    assert interpolated.answer(config)[1].point[0] != interpolated.answer(near)[1].point[0]
    assert np.mean([*answers[0][1].rungs[-1].example_losses]) == pytest.approx(losses[0], abs=1e-3)


def test_few_rows_are_not_interpolated(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="3 complete curves are too few to interpolate"):
        CurveTable.load(write(tmp_path / "a.jsonl", line(), line(), line()))


# The simulator.


def test_the_order_of_calls_is_that_of_tune(tmp_path: Path) -> None:
    simulator = scripted(load(tmp_path, line()), 1)
    run = simulator.run()
    assert simulator.searcher.log == [
        ("add", "00000"),
        ("result", "00000", 16), ("searcher result", "00000", 16),
        ("result", "00000", 48), ("searcher result", "00000", 48),
        # The last result says done, so the scheduler is not asked.
        ("complete", "00000", 144), ("searcher complete", "00000", True),
    ]  # fmt: skip
    assert [done[:2] for done in run.completions] == [(22.0, 0)]
    assert simulator.get_trials()[0].status == TERMINATED
    assert not simulator.get_live_trials()


def test_time_is_virtual_and_workers_are_parallel(tmp_path: Path) -> None:
    table = load(tmp_path, line())
    run = scripted(table, 5, workers=2).run()
    assert [done.time for done in run.completions] == [22.0, 22.0, 44.0, 44.0, 66.0]
    assert run.train_seconds([22.0, 66.0]).tolist() == pytest.approx([36.0, 90.0])
    assert run.train_seconds([1.5])[0] == pytest.approx(
        2 * 2.0 * 1.5 / 4
    )  # of begin, train, evaluate: pro rata
    assert run.rows == {0}


def test_a_stopped_trial_frees_its_worker(tmp_path: Path) -> None:
    simulator = scripted(load(tmp_path, line()), 2, {("00000", 16): "STOP"})
    run = simulator.run()
    assert [done[:2] for done in run.completions] == [(4.0 + 22.0, 0)]
    log = simulator.searcher.log
    assert log[1:5] == [
        ("result", "00000", 16), ("complete", "00000", 16), ("searcher complete", "00000", True), ("add", "00001"),
    ]  # fmt: skip
    assert simulator.get_trials()[0].last_result["done"]


def test_a_paused_trial_goes_on_from_where_it_was(tmp_path: Path) -> None:
    # FIFO takes what is pending first and then what is paused, which makes the pause last until the other has ended.
    simulator = scripted(load(tmp_path, line()), 2, {("00000", 48): "PAUSE"})
    run = simulator.run()
    assert [done.time for done in run.completions] == [31.0, 31.0 + 1.0 + 13.0]  # it begins again: 1 s
    seen = [entry[2] for entry in simulator.searcher.log if entry[:2] == ("result", "00000")]
    assert seen == [16, 48]
    assert (run.resumed, run.stranded) == (1, 0)


def test_a_scheduler_may_stop_paused_trials_and_running_ones(tmp_path: Path) -> None:
    def stop_first(controller: Any) -> str:
        controller.stop_trial(controller.get_trial("00000"))
        controller.stop_trial(controller.get_trial("00000"))  # twice does no harm
        return "CONTINUE"

    decisions = {("00000", 16): "PAUSE", ("00001", 48): stop_first}
    simulator = scripted(load(tmp_path, line()), 2, decisions)
    run = simulator.run()
    assert len(run.completions) == 1
    assert simulator.searcher.log.count(("remove", "00000")) == 1
    assert ("searcher complete", "00000", False) in simulator.searcher.log
    decisions = {("00001", 16): stop_first}  # two workers: the other one is at its next rung
    simulator = scripted(load(tmp_path, line()), 3, decisions, workers=2)
    run = simulator.run()
    assert ("complete", "00000", 16) in simulator.searcher.log
    assert simulator.free == 2
    assert [done.row_index for done in run.completions] == [0, 0]


def test_pausing_another_running_trial_loses_what_it_had_not_reported(tmp_path: Path) -> None:
    def pause_first(controller: Any) -> str:
        controller.pause_trial(controller.get_trial("00000"))
        return "CONTINUE"

    fast = line(learning_rate=2e-4)
    for number, rung in enumerate(fast["rungs"]):
        rung |= {"train_seconds": 0.1 * (number + 1), "eval_seconds": 0.0}
    table = load(tmp_path, line(), fast)
    searcher = Given(dict(table.rows[0].config), dict(table.rows[1].config))
    scheduler = Scripted(searcher.log, {("00001", 16): pause_first})
    run = Simulator(table, searcher, scheduler, 2).run()
    assert [done.row_index for done in run.completions] == [1, 0]
    assert [done.time for done in run.completions] == pytest.approx([1.3, 1.1 + 22.0])
    assert run.train_seconds([run.end])[0] == pytest.approx(18.0 + 0.3 + 2.0 * 1.1 / 4)


def test_a_crash_and_a_failure_are_told(tmp_path: Path) -> None:
    failing = {**line(), "rungs": line()["rungs"][:1], "failure": "out of memory", "infeasible": True}
    table = load(tmp_path, line(targets="attention"), failing)
    simulator = scripted(table, 2, crashes=lambda trial_id, rung: (trial_id, rung) == ("00000", 2))
    simulator.run()
    assert simulator.get_trials()[0].status == ERROR
    assert ("error", "00000") in simulator.searcher.log
    assert ("searcher complete", "00000", "error") in simulator.searcher.log
    config = dict(table.rows[1].config)
    searcher = Given(config)
    simulator = Simulator(
        table, searcher, ASHAScheduler(time_attr="examples_seen", metric="eval_loss", mode="min")
    )
    assert simulator.run().completions == []
    last = simulator.get_trials()[0].last_result
    assert (last["failure"], last["infeasible"], last["done"]) == ("out of memory", True, True)


def test_trials_left_paused_are_counted_not_waited_for(tmp_path: Path) -> None:
    class Never(Scripted):
        def choose_trial_to_run(self, tune_controller: Any) -> None:
            return None

    table = load(tmp_path, line())
    searcher = Given(*[dict(table.rows[0].config)] * 3)
    run = Simulator(table, searcher, Never(searcher.log, {("00001", 16): "PAUSE"}), 1).run()
    assert (len(run.completions), run.stranded) == (2, 1)


def test_the_horizon_ends_a_run(tmp_path: Path) -> None:
    run = scripted(load(tmp_path, line()), 9, horizon=50.0).run()
    assert len(run.completions) == 2
    assert run.end <= 50.0


def test_rays_own_hyperband_which_pauses_and_unpauses_runs_to_its_end(table: CurveTable) -> None:
    searcher = Given(*[dict(row.config) for row in table.rows[:12]])
    scheduler = HyperBandScheduler(time_attr="training_iteration", metric="eval_loss", mode="min", max_t=3)
    simulator = Simulator(table, searcher, scheduler, workers=5)  # brackets of 2 and 3 trials at once
    run = simulator.run()
    assert run.trials == 12
    assert run.completions
    assert run.resumed > 0
    assert all(trial.status == TERMINATED for trial in simulator.get_trials())


# The competitors.


def test_every_competitor_runs_and_repeats_itself_with_the_same_seed(table: CurveTable) -> None:
    for competitor in all_competitors():
        if competitor.missing:
            continue
        maker = next(iter(competitor.variants.values()))
        first, again = (replay(table, maker, 1, 2, 500.0) for _ in range(2))
        assert first.completions, competitor.name
        assert first.completions == again.completions, competitor.name
        assert first.stranded == 0, competitor.name


def test_our_sweep_ends_with_no_trial_left_over(table: CurveTable) -> None:
    searcher, scheduler = ours()(Setting(table, 0, 3))
    simulator = Simulator(table, searcher, scheduler, 3, max_trials=20)
    run = simulator.run()
    assert (run.trials, run.stranded) == (20, 0)
    assert all(trial.is_finished() for trial in simulator.get_trials())
    assert 0 < len(run.completions) < 20


def test_a_table_may_bring_its_own_space_and_rungs(tmp_path: Path) -> None:
    table = load(tmp_path, line(), space={"rank": [8, 16]})
    config = sweep_config(table, seed=3, overrides=("sampler=random",))
    assert (config.rungs, config.seed, config.sampler) == ((16, 48, 144), 3, "random")
    assert config.search_space.to_yaml()["rank"] == [8, 16]
    assert "targets" in config.search_space.dimensions


# The scores.


def test_scores_count_a_row_once_and_compute_always(tmp_path: Path) -> None:
    table = load(tmp_path, line(3.0, 100), line(3.2, 50, rank=16), line(4.0, 120, rank=2))
    done = [Completion(time, row, table.points[row]) for time, row in ((10.0, 1), (20.0, 1), (30.0, 0))]
    run = Run(1, completions=done, segments=[(0.0, 30.0, 60.0)], end=40.0)
    curve = score(table, run)
    whole = 0.8 * 70 + 0.2 * 20  # below (4.0, 120)
    assert curve.hypervolume.tolist() == pytest.approx([0.8 * 70 / whole, 1.0])
    assert curve.train_seconds.tolist() == [20.0, 60.0]
    assert curve.found.tolist() == [0.5, 1.0]
    assert (curve.reach(0.9), curve.reach(0.95), curve.reach(0.95, "time")) == (20.0, 60.0, 30.0)
    assert curve.at(np.array([0.0, 19.0, 20.0, 99.0])).tolist() == pytest.approx([0, 0, 0.8 * 70 / whole, 1])
    assert is_complete(table, run)
    assert not is_complete(table, Run(1, completions=done[:1]))


def test_a_level_that_is_not_reached_is_infinite() -> None:
    nothing = np.array([])
    assert Curve(nothing, nothing, nothing, nothing, 0.0).reach(0.9) == float("inf")


def test_a_front_member_is_found_within_one_percent_of_both() -> None:
    front = [(3.0, 100.0), (2.0, 200.0)]
    assert found_share([(3.02, 100.9)], front) == 0.5
    assert found_share([(3.02, 101.1)], front) == 0.0
    assert found_share([(2.0, 100.0)], front) == 1.0
    assert found_share([], front) == 0.0


def numbers(at_95: float, at_90: float = 1.0) -> dict[str, Any]:
    reach = {"90%": [at_90] * 3, "95%": [at_95] * 3, "99%": [float("inf")] * 3}
    return {"train_seconds_to_reach": reach, "hypervolume_at_end": [1.0] * 3}


def test_the_best_setting_counts_and_the_best_rival() -> None:
    assert best_setting({"a": numbers(9.0), "b": numbers(8.0), "c": numbers(float("inf"))}) == "b"
    assert best_setting({"a": numbers(float("inf"), 3.0), "b": numbers(float("inf"), 2.0)}) == "b"
    results: dict[str, Any] = {
        "ours": {"best": "x", "variants": {"x": numbers(4.0)}},
        "one": {"best": "y", "variants": {"y": numbers(10.0), "z": numbers(20.0)}},
        "two": {"not_run": "absent"},
    }
    assert ratios(results)["95%"] == {
        "ours": 4.0,
        "rival": "one",
        "best_rival": 10.0,
        "ratio": pytest.approx(0.4),
    }
    assert report.verdict({"ratios": ratios(results)}).endswith("the target of at most 0.5 is met.")
    assert (ratios(results)["99%"]["ratio"], ratios(results)["99%"]["rival"]) == (None, None)
    results["one"]["variants"]["y"] = numbers(float("inf"))
    text = report.verdict({"ratios": ratios(results)})
    assert text.startswith(
        "Within the budget no rival reached 95 % in the median run, ours did after 0.1 minutes"
    )


def test_the_whole_comparison_reaches_screen_json_figure_and_readme(
    table: CurveTable, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.benchmarks.replay.figure import draw

    competitors = [
        Competitor("lorafront", {"random": ours(("sampler=random",))}),
        Competitor("random search", {"no scheduler": random_search}),
        Competitor("elsewhere", {}, missing="not installed"),
    ]
    results = compare(table, competitors, seeds=2, workers=2, budget=0.5)
    report.write_json(results, tmp_path / "numbers.json")
    text = (tmp_path / "numbers.json").read_text()
    assert "Infinity" not in text
    assert json.loads(text)["competitors"]["elsewhere"] == {"not_run": "not installed"}
    for own in results["competitors"].values():
        for variant in own.get("variants", {}).values():
            assert (np.diff(np.array(variant["bands"]["hypervolume"]), axis=0) >= 0).all()
    draw(results, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    report.print_table(results)
    assert "random search" in capsys.readouterr().out
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- replay:begin -->\nold\n<!-- replay:end -->\nafter\n")
    report.write_readme(results, readme)
    content = readme.read_text()
    assert content.startswith("before\n")
    assert content.endswith("after\n")
    assert "old" not in content
    assert "| random search | no scheduler |" in content
    with pytest.raises(InputError, match="must hold one"):
        report.write_readme(results, tmp_path / "absent.md")


def test_made_up_tables_are_in_the_recorded_format() -> None:
    lines = table_lines(3, seed=1)
    assert lines[0]["rungs"] == RUNGS
    first = lines[1]["rungs"][0]
    assert np.mean(first["example_losses"]) == pytest.approx(first["eval_loss"], abs=1e-3)
    assert first["eval_loss"] > lines[1]["rungs"][-1]["eval_loss"]
