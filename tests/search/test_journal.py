import json
import resource
from pathlib import Path

import pytest

import search.journal as journal_module
from analysis.records import Base, Front, RungResult, RunPaths, TrialRecord
from search.errors import InputError
from search.journal import FRONT_SHARE, Journal
from search.recorder import FailureStopper
from search.trial_errors import last_line


def record(trial_id: str, **fields: object) -> TrialRecord:
    return TrialRecord(trial_id=trial_id, config={"rank": 8}, **fields)  # type: ignore[arg-type]


def test_every_event_is_on_disk_at_once(tmp_path: Path) -> None:
    journal = Journal(RunPaths(tmp_path), name="n", size="s")
    journal.trial("started", record("t0001"))
    lines = (tmp_path / "trials.jsonl").read_text().splitlines()
    assert json.loads(lines[0])["trial"]["trial_id"] == "t0001"


def test_a_torn_line_is_cut_off_before_the_next_one(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path)
    Journal(paths, name="n", size="s").trial("started", record("t0001"))
    with paths.trials_jsonl.open("a") as file:
        file.write('{"event":"ended","ti')
    journal = Journal(paths, name="n", size="s")
    journal.trial("started", record("t0002"))
    again = Journal(paths, name="n", size="s")
    assert list(again.trials) == ["t0001", "t0002"]


def test_a_damaged_line_in_the_middle_is_an_error_with_its_number(tmp_path: Path) -> None:
    (tmp_path / "trials.jsonl").write_text("nonsense\n{}\n")
    with pytest.raises(InputError, match=r"trials\.jsonl:1"):
        Journal(RunPaths(tmp_path), name="n", size="s")


def test_a_completed_trial_rewrites_the_front(tmp_path: Path) -> None:
    journal = Journal(RunPaths(tmp_path), name="n", size="s")
    journal.found_base(Base(eval_loss=4.0, eval_loss_stderr=0.1))
    done = record("t0001", status="completed", eval_loss=3.0, eval_loss_stderr=0.1, peak_memory_bytes=5)
    journal.trial("ended", done)
    front = json.loads((tmp_path / "front.json").read_text())
    assert front["trials"][0]["on_front"] is True
    assert front["finished"] is False


def test_a_front_that_takes_long_to_write_is_put_off_and_comes_with_a_later_event(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr(journal_module.time, "monotonic", lambda: clock[0])
    journal = Journal(RunPaths(tmp_path), name="n", size="s")
    build = journal.front

    def slow_front(*, finished: bool) -> Front:
        clock[0] += 1.0
        return build(finished=finished)

    monkeypatch.setattr(journal, "front", slow_front)
    done = {"status": "completed", "eval_loss": 3.0, "eval_loss_stderr": 0.1, "peak_memory_bytes": 5}

    def shown() -> int:
        return len(json.loads((tmp_path / "front.json").read_text())["trials"])

    journal.trial("ended", record("t0001", **done))
    journal.trial("ended", record("t0002", **done))
    assert shown() == 1
    clock[0] = 1.0 / FRONT_SHARE - 0.1
    journal.trial("started", record("t0003"))
    assert shown() == 1
    clock[0] += 0.2
    journal.trial("started", record("t0004"))
    assert shown() == 4
    clock[0] += 1000.0
    journal.trial("started", record("t0005"))  # which changes no front
    assert shown() == 4
    assert len(journal.write_front(finished=True).trials) == 5


def test_front_json_leaves_the_losses_of_single_examples_to_the_journal(tmp_path: Path) -> None:
    journal = Journal(RunPaths(tmp_path), name="n", size="s")
    rung = RungResult(examples_seen=4, eval_loss=3.0, eval_loss_stderr=0.1, example_losses=[2.5, 3.5])
    journal.trial("result", record("t0001", rungs=[rung]))
    journal.write_front(finished=False)
    (written,) = json.loads((tmp_path / "front.json").read_text())["trials"][0]["rungs"]
    assert "example_losses" not in written
    assert journal.front(finished=False).trials[0].rungs[0].example_losses == [2.5, 3.5]


def test_of_a_line_that_does_not_fit_nothing_stays(tmp_path: Path) -> None:
    journal = Journal(RunPaths(tmp_path), name="n", size="s")
    journal.trial("started", record("t0001"))
    before = (tmp_path / "trials.jsonl").read_bytes()
    whole = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 20, whole[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            journal.trial("started", record("t0002"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, whole)
    assert (tmp_path / "trials.jsonl").read_bytes() == before
    assert list(journal.trials) == ["t0001"]
    journal.trial("started", record("t0003"))
    assert list(Journal(RunPaths(tmp_path), name="n", size="s").trials) == ["t0001", "t0003"]


def test_three_first_failures_for_one_reason_end_the_sweep() -> None:
    stopper = FailureStopper()
    for reason in ("a", "b", "a", "a"):
        assert not stopper.stop_all()
        stopper.note(reason=reason)
    assert stopper.stop_all()
    assert stopper.interrupted_by == "a"
    lucky = FailureStopper()
    lucky.note(reason=None)
    for _ in range(5):
        lucky.note(reason="a")
    assert not lucky.stop_all()


def test_last_line_is_the_error_itself() -> None:
    assert last_line("Traceback\n  File x\nValueError: no\n") == "ValueError: no"
