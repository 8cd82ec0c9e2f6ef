"""What is trained again after the search, and full fine-tuning that the device cannot hold."""

from pathlib import Path

import numpy as np
import pytest

from analysis.records import RunPaths, TrialRecord
from search.config import resolve_config
from search.confirm import GivenTrials, confirm_config, replicate_specs
from search.history import checkpoint_of
from search.interrupts import Interrupts
from search.journal import Journal
from search.plan import BASELINE_ID, Machine, SweepPlan
from search.recorder import new_record
from search.sweep import Sweep
from search.units import GIB
from trainables.chat import TokenizedExample
from trainables.data import PreparedData
from trainables.modules import LLAMA_PATHS, names_of
from trainables.settings import TrialConfig

LLAMA_MODULES = names_of(LLAMA_PATHS)


def plan_with(memory_bytes: int = 64 * GIB, **flags: object) -> SweepPlan:
    config = resolve_config(None, flags={"confirm": 2, "seed": 5, **flags})
    example = TokenizedExample(np.arange(8, dtype=np.int32), np.ones(8, dtype=bool), truncated=False)
    data = PreparedData((example,), (example,), (example,), 0, "fingerprint", {})
    targets = {name: LLAMA_MODULES for name in config.search_space.target_sets()}
    machine = Machine("cpu", "2 CPU cores", 2, 1, memory_bytes)
    return SweepPlan(config, config.architecture, Path("model"), data, targets, machine)


def journal_with(tmp_path: Path, *records: TrialRecord) -> Journal:
    journal = Journal(RunPaths(tmp_path), name="n", size="s")
    for record in records:
        journal.trial("ended", record)
    return journal


def completed(plan: SweepPlan, trial_id: str, loss: float, memory: int, rank: int) -> TrialRecord:
    record = new_record(plan.spec(trial_id, TrialConfig(rank=rank)), memory)
    return record.model_copy(
        update={"status": "completed", "eval_loss": loss, "peak_memory_bytes": memory, "examples_seen": 144}
    )


def test_front_members_get_new_seeds_and_others_nothing(tmp_path: Path) -> None:
    plan = plan_with()
    records = [
        completed(plan, f"t000{n}", *m) for n, m in enumerate([(3.0, 900, 4), (3.5, 400, 8), (3.6, 500, 2)])
    ]
    specs = replicate_specs(plan, journal_with(tmp_path, *records))
    assert [(s.replicate_of, s.seed, s.config.rank) for s in specs] == [
        ("t0001", 6, 8), ("t0000", 6, 4), ("t0001", 7, 8), ("t0000", 7, 4),
    ]  # fmt: skip
    assert all(s.evaluate_test and s.rungs == plan.config.rungs for s in specs)
    assert new_record(specs[0], 1).kind == "replicate"
    assert replicate_specs(plan_with(confirm=0), journal_with(tmp_path, *records)) == []


def test_what_ended_is_not_run_again_and_what_ran_goes_on(tmp_path: Path) -> None:
    plan = plan_with()
    member = completed(plan, "t0001", 3.0, 900, 4)
    first, second = replicate_specs(plan, journal_with(tmp_path, member))
    folder = tmp_path / "tune" / "checkpoint"
    folder.mkdir(parents=True)
    (folder / "state.json").write_text("{}")
    running = new_record(second, 1).model_copy(update={"checkpoint": "tune/checkpoint"})
    failed = new_record(first, 1).model_copy(update={"status": "failed", "error": "diverged"})
    (left,) = replicate_specs(plan, journal_with(tmp_path, failed, running))
    assert (left.trial_id, left.resume_from) == (second.trial_id, str(folder.resolve()))
    assert checkpoint_of(failed, RunPaths(tmp_path)) is None


def test_given_trials_are_handed_out_once() -> None:
    plan = plan_with()
    specs = [plan.spec("a", TrialConfig()), plan.spec("b", TrialConfig())]
    searcher = GivenTrials(specs)
    assert [searcher.suggest(str(n))["spec"]["trial_id"] for n in range(2)] == ["a", "b"]
    assert searcher.suggest("2") == GivenTrials.FINISHED
    searcher = confirm_config(specs, lambda: 1).search_alg
    assert [searcher.suggest(name) is not None for name in ("x", "y")] == [True, False]  # one at a time


@pytest.mark.parametrize(("memory_bytes", "is_refused"), [(1 * GIB, True), (64 * GIB, False)])
def test_full_fine_tuning_that_cannot_fit_is_infeasible_with_its_prediction(
    tmp_path: Path, memory_bytes: int, is_refused: bool
) -> None:
    plan = plan_with(memory_bytes)
    sweep = Sweep(plan, RunPaths(tmp_path), "lorafront sweep", Interrupts("interrupted"))
    for _ in range(2):  # also when the sweep is resumed
        sweep._refuse_hopeless_baseline()
    assert (BASELINE_ID in sweep.journal.trials) == is_refused
    if is_refused:
        record = sweep.journal.trials[BASELINE_ID]
        assert (record.status, record.memory_source) == ("infeasible", "predicted")
        assert record.predicted_memory_bytes == sweep.plan.predict_memory(sweep.plan.baseline_spec())
        assert record.error is not None
        assert record.error.endswith("and the device has 1.00 GiB")
        assert len(sweep.journal.events) == 1


def test_the_baseline_is_evaluated_on_the_test_split_only_if_members_will_be() -> None:
    assert plan_with().baseline_spec().evaluate_test
    assert not plan_with(confirm=0).baseline_spec().evaluate_test
