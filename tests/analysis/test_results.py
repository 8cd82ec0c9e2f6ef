import shutil
from pathlib import Path

import pytest

from analysis.records import Event, TrialRecord
from analysis.results import Run, latest_trials, load_run, read_events
from search.errors import InputError
from tests.analysis.synthetic import BASE, SWEEP_EVENT


def test_a_run_is_rebuilt_from_its_events(run: Run, run_dir: Path) -> None:
    assert len(run.front.trials) == 16
    assert {trial.status for trial in run.front.trials} == {"completed", "stopped", "failed", "infeasible"}
    assert run.base == run.front.base == BASE
    assert run.front.finished is True
    assert run.front.name == "demo"
    assert run.front.created == SWEEP_EVENT["created"]
    assert run.front.reference_point == {"eval_loss": 4.71, "peak_memory_bytes": 3 * 2**30}
    assert run.front.baseline is not None
    assert run.full_trial is not None
    assert run.full_trial.trial_id == "baseline"
    assert run.config["max_examples"] == 144
    assert run.section("data")["seq_len"] == 128
    assert run.section("no_such_section") == {}
    assert run.paths.root == run_dir


def test_the_newest_line_of_a_trial_wins_in_order_of_first_appearance() -> None:
    def event(trial_id: str, seed: int) -> Event:
        return Event(event="result", time="t", trial=TrialRecord(trial_id=trial_id, config={}, seed=seed))

    trials = latest_trials([event("b", 1), event("a", 2), Event(event="base", time="t"), event("b", 3)])
    assert [(trial_id, trial.seed) for trial_id, trial in trials.items()] == [("b", 3), ("a", 2)]


@pytest.mark.parametrize(
    "torn", [b'{"event": "ended", "time": "2026', b'{"event"', b"\xf0\x9f", b'{"event": "x"}']
)
def test_a_torn_last_line_is_no_event(run_dir: Path, torn: bytes) -> None:
    path = run_dir / "trials.jsonl"
    whole = read_events(path)
    with path.open("ab") as stream:
        stream.write(torn)
    assert read_events(path) == whole


def test_a_whole_last_line_counts_without_its_newline(run_dir: Path) -> None:
    path = run_dir / "trials.jsonl"
    whole = read_events(path)
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    assert read_events(path) == whole


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ("{not json", "Invalid JSON"),
        ('{"event": "ended"}', "time"),
        ('{"event": "party", "time": "t"}', "event"),
    ],
)
def test_a_bad_line_in_the_middle_is_named(run_dir: Path, bad: str, reason: str) -> None:
    path = run_dir / "trials.jsonl"
    lines = path.read_text().splitlines()
    lines[4] = bad
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(InputError, match=r"trials\.jsonl:5: not a trial event: .*" + reason) as caught:
        read_events(path)
    assert "\n" not in str(caught.value)


def test_a_bad_last_line_that_was_ended_is_an_error(run_dir: Path) -> None:
    path = run_dir / "trials.jsonl"
    with path.open("a") as stream:
        stream.write("{}\n")
    with pytest.raises(InputError, match="not a trial event"):
        read_events(path)


def test_empty_lines_and_no_events_are_fine(run_dir: Path) -> None:
    (run_dir / "trials.jsonl").write_text("\n\n")
    run = load_run(run_dir)
    assert run.events == []
    assert run.front.trials == []
    assert run.front.finished is False
    assert run.front.name == "demo"


def test_folders_that_are_no_runs_say_what_is_missing(run_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        load_run(tmp_path / "nowhere")
    with pytest.raises(InputError, match="is a file"):
        load_run(run_dir / "sweep.yaml")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"no sweep\.yaml and no trials\.jsonl"):
        load_run(tmp_path / "empty")
    shutil.copy(run_dir / "sweep.yaml", tmp_path / "empty")
    with pytest.raises(InputError, match=r"no trials\.jsonl$"):
        load_run(tmp_path / "empty")


@pytest.mark.parametrize("text", ["a: [", "- a list", "just text", ""])
def test_a_malformed_sweep_yaml_is_one_line(run_dir: Path, text: str) -> None:
    (run_dir / "sweep.yaml").write_text(text)
    with pytest.raises(InputError, match=r"sweep\.yaml") as caught:
        load_run(run_dir)
    assert "\n" not in str(caught.value)


def test_an_unknown_shape_of_sweep_yaml_is_read_leniently(run_dir: Path) -> None:
    (run_dir / "sweep.yaml").write_text("data: text\nfuture: 1\n")
    run = load_run(run_dir)
    assert run.section("data") == {}
    assert len(run.front.trials) == 16


def test_checkpoints_lie_in_the_run_folder_or_are_none(run: Run, run_dir: Path) -> None:
    def record(checkpoint: str | None) -> TrialRecord:
        return TrialRecord(trial_id="a", config={}, checkpoint=checkpoint)

    assert run.checkpoint_dir(record("tune/x")) == run_dir / "tune/x"
    assert run.checkpoint_dir(record(str(run_dir.resolve() / "tune/x"))) == run_dir.resolve() / "tune/x"
    assert run.checkpoint_dir(record("/elsewhere/x")) is None
    assert run.checkpoint_dir(record(None)) is None
