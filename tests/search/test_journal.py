import json
import resource
from pathlib import Path

import pytest

from analysis.records import Base, RunPaths, TrialRecord
from search.errors import InputError
from search.journal import Journal
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
