"""What a memory budget lets run, and how measured trials correct it."""

from pathlib import Path
from typing import Any

import pytest

from analysis.records import RunPaths, TrialRecord
from search.history import trial_config, was_launched
from search.journal import Journal
from search.memory_budget import MemoryBudget
from search.plan import SweepPlan
from search.recorder import new_record
from tests.search.test_prediction import plan_with
from trainables.settings import TrialConfig, TrialSpec

HERE = {"device": "2 CPU cores"}


def spec_of(plan: SweepPlan, trial_id: str = "t0009") -> TrialSpec:
    return plan.spec(trial_id, TrialConfig(rank=8, targets="all-linear", batch_size=4))


def measured(plan: SweepPlan, trial_id: str, ratio: float, **changes: Any) -> TrialRecord:
    record = new_record(plan.spec(trial_id, TrialConfig(targets="all-linear")), 1000)
    update = {"peak_memory_bytes": round(1000 * ratio), "memory_source": "measured", "status": "stopped"}
    return record.model_copy(update=update | changes)


def journal_in(folder: Path, *records: TrialRecord, facts: dict[str, Any] = HERE) -> Journal:
    folder.mkdir(exist_ok=True)
    journal = Journal(RunPaths(folder), name="n", size="s")
    journal.sweep(facts)
    for record in records:
        journal.trial("ended", record)
    return journal


def test_without_a_budget_everything_runs(tmp_path: Path) -> None:
    plan, journal = plan_with(), journal_in(tmp_path)
    assert MemoryBudget(plan, journal).admit(spec_of(plan))
    assert not journal.trials


def test_before_anything_is_measured_the_prediction_itself_counts(tmp_path: Path) -> None:
    predicted = plan_with().predict_memory(spec_of(plan_with()))
    enough, too_little = plan_with(memory_budget=predicted), plan_with(memory_budget=predicted - 1)
    journal = journal_in(tmp_path)
    assert MemoryBudget(enough, journal).admit(spec_of(enough))
    assert not MemoryBudget(too_little, journal).admit(spec_of(too_little))
    record = journal.trials["t0009"]
    assert (record.status, record.memory_source) == ("infeasible", "predicted")
    assert record.predicted_memory_bytes == predicted
    assert record.memory_correction is None
    assert "as trials went so far" not in (record.error or "")
    assert not was_launched(record)


def test_what_trials_needed_corrects_later_predictions(tmp_path: Path) -> None:
    predicted = plan_with().predict_memory(spec_of(plan_with()))
    plan = plan_with(memory_budget=round(predicted * 1.05))
    journal = journal_in(tmp_path)
    budget = MemoryBudget(plan, journal)
    assert budget.admit(spec_of(plan))
    for number, ratio in enumerate((1.0, 1.1, 1.2), 1):
        journal.trial("result", measured(plan, f"t{number:04d}", ratio))
    assert budget.correction == pytest.approx(1.1)
    assert budget.needed_bytes(spec_of(plan)) == pytest.approx(1.1 * predicted)
    assert not budget.admit(spec_of(plan))
    record = journal.trials["t0009"]
    assert record.memory_correction == pytest.approx(1.1)
    assert record.predicted_memory_bytes == predicted  # as it is, uncorrected
    assert "as trials went so far, over the budget of" in (record.error or "")
    assert trial_config(record) == spec_of(plan).config


def test_a_prediction_that_was_too_high_lets_more_run(tmp_path: Path) -> None:
    predicted = plan_with().predict_memory(spec_of(plan_with()))
    plan = plan_with(memory_budget=round(predicted * 0.95))
    assert not MemoryBudget(plan, journal_in(tmp_path / "a")).admit(spec_of(plan))
    assert MemoryBudget(plan, journal_in(tmp_path / "b", measured(plan, "t0001", 0.9))).admit(spec_of(plan))


def test_a_resumed_sweep_and_a_warm_start_know_it_too(tmp_path: Path) -> None:
    plan = plan_with()
    journal_in(tmp_path, measured(plan, "w0001", 1.25, adopted_from="earlier/t0001")).close()
    again = Journal(RunPaths(tmp_path), name="n", size="s")
    assert MemoryBudget(plan, again).correction == pytest.approx(1.25)
    again.sweep({"device": "8 CPU cores"})  # more of the same
    again.trial("result", measured(plan, "t0002", 1.75))
    assert MemoryBudget(plan, again).correction == pytest.approx(1.5)


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "full"},
        {"kind": "replicate"},
        {"memory_source": "predicted"},
        {"peak_memory_bytes": None},
        {"predicted_memory_bytes": None},
    ],
    ids=str,
)
def test_only_measured_trials_of_the_search_correct(tmp_path: Path, changes: dict[str, Any]) -> None:
    plan = plan_with()
    assert (
        MemoryBudget(plan, journal_in(tmp_path, measured(plan, "t0001", 1.3, **changes))).correction is None
    )


def test_another_device_does_not_correct(tmp_path: Path) -> None:
    plan = plan_with()
    journal = journal_in(tmp_path, measured(plan, "t0001", 1.3), facts={"device": "1 x NVIDIA H100"})
    assert MemoryBudget(plan, journal).correction is None
    journal.sweep(HERE)
    journal.trial(
        "started", journal.trials["t0001"]
    )  # goes on here: its memory is still that of the other device
    assert MemoryBudget(plan, journal).correction is None
