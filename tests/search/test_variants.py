"""In what other ways a finished trial could be executed."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from analysis.records import ExecutionVariant, RunPaths, TrialRecord
from analysis.results import latest_trials, read_events
from search.config import resolve_config
from search.interrupts import Interrupts
from search.journal import Journal
from search.plan import SweepPlan
from search.recorder import new_record
from search.sweep import Sweep
from search.variants import execution_variants, executions, halvings, with_variants, worth_having
from tests.search.test_confirm import plan_with
from trainables.settings import ExecutionSettings, TrialConfig


def finished(plan: SweepPlan, batch_size: int = 8, memory: int = 10**9, **changes: Any) -> TrialRecord:
    """A completed trial that was measured."""
    record = new_record(plan.spec("t0001", TrialConfig(batch_size=batch_size)), memory)
    update = {
        "status": "completed",
        "eval_loss": 3.0,
        "peak_memory_bytes": memory,
        "tokens_per_second": 300.0,
    }
    return record.model_copy(update=update | changes)


def variant(memory: int, speed: float, is_own: bool = False) -> ExecutionVariant:
    return ExecutionVariant(
        micro_batch_size=1, gradient_checkpointing=False, plugin="ddp",
        predicted_memory_bytes=memory, relative_speed=speed, is_own=is_own,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("batch_size", "expected"), [(1, [1]), (2, [2, 1]), (6, [6, 3, 2, 1]), (32, [32, 16, 8, 4, 2, 1])]
)
def test_a_batch_is_halved_down_to_one_example(batch_size: int, expected: list[int]) -> None:
    assert list(halvings(batch_size)) == expected


def test_only_micro_batch_checkpointing_and_offloading_differ() -> None:
    own = ExecutionSettings(plugin="zero2", optimizer="adamw", threads=3, dtype="bf16", quantize=True)
    found = executions(TrialConfig(batch_size=4), own)
    assert found[0] == own
    assert len(found) == len(set(map(str, found))) == 3 * 2 * 2
    free = {"micro_batch_size", "gradient_checkpointing", "plugin"}
    assert all(other.model_dump(exclude=free) == own.model_dump(exclude=free) for other in found)
    assert {other.plugin for other in found} == {"zero2", "zero2-offload"}


@pytest.mark.parametrize(
    ("own", "plugins"),
    [
        ({"plugin": "ddp"}, {"ddp"}),  # offloaded, its adapters would be bf16: another training
        ({"plugin": "hybrid"}, {"hybrid"}),
        ({"plugin": "zero1"}, {"zero1", "zero2-offload"}),
        ({"plugin": "zero2-offload"}, {"zero2-offload", "zero2"}),
        ({"plugin": "zero2", "optimizer": "adamw-8bit"}, {"zero2"}),  # steps on the GPU only
    ],
)
def test_plugins_that_train_the_same(own: dict[str, Any], plugins: set[str]) -> None:
    found = executions(TrialConfig(batch_size=2), ExecutionSettings.model_validate(own))
    assert {execution.plugin for execution in found} == plugins


def test_devices_share_the_batch_and_an_odd_micro_batch_is_kept() -> None:
    own = ExecutionSettings(devices_per_trial=2, micro_batch_size=3)
    found = executions(TrialConfig(batch_size=16), own)
    plain = [execution.micro_batch(8) for execution in found if not execution.gradient_checkpointing]
    assert plain == [3, 1, 2, 4, 8]


def test_the_own_execution_comes_with_what_was_measured_and_the_others_are_scaled_by_it() -> None:
    plan = plan_with()
    trial = finished(plan)
    spec = plan.spec("t0001", TrialConfig(batch_size=8))
    factor = 10**9 / plan.predict_memory(spec)
    found = execution_variants(plan, trial)
    (own,) = [each for each in found if each.is_own]
    assert (own.micro_batch_size, own.predicted_memory_bytes, own.relative_speed) == (8, 10**9, 1.0)
    assert len(found) > 2
    for each in found:
        execution = spec.execution.model_copy(
            update={
                "micro_batch_size": each.micro_batch_size,
                "gradient_checkpointing": each.gradient_checkpointing,
            }
        )
        predicted = plan.predict_memory(spec.model_copy(update={"execution": execution}))
        assert each.predicted_memory_bytes == pytest.approx(factor * predicted, abs=1)


def test_every_slower_variant_needs_less_and_the_own_one_is_always_there() -> None:
    plan = plan_with()
    for batch_size in (1, 2, 6, 8, 32):
        found = execution_variants(plan, finished(plan, batch_size))
        speeds = [each.relative_speed for each in found]
        memories = [each.predicted_memory_bytes for each in found]
        assert speeds == sorted(speeds, reverse=True)
        assert memories == sorted(memories, reverse=True)
        assert sum(each.is_own for each in found) == 1


def test_what_is_not_worth_having_is_left_out() -> None:
    own, better = variant(1000, 1.0, is_own=True), variant(500, 1.2)
    barely, slow = variant(497, 1.1), variant(300, 0.5)
    assert worth_having([slow, own, variant(600, 0.7), better, barely]) == [better, own, slow]


def test_a_profile_with_checkpointing_and_micro_batches_has_faster_variants() -> None:
    plan = plan_with(size="llama3-8b")
    plan = replace(plan, config=resolve_config("llama3-8b"))
    found = execution_variants(plan, finished(plan, 16, tokens_per_second=4000.0))
    assert any(each.relative_speed > 1 and not each.gradient_checkpointing for each in found)
    assert all(each.gradient_checkpointing or not each.is_own for each in found)


def test_variants_are_in_the_journal_of_a_completed_trial_and_of_no_other(tmp_path: Path) -> None:
    plan = plan_with()
    paths = RunPaths(tmp_path)
    sweep = Sweep(plan, paths, "command", Interrupts("interrupted"))
    whole = finished(plan)
    sweep.journal.trial("ended", whole)
    sweep.journal.trial("ended", whole.model_copy(update={"trial_id": "t0002", "status": "stopped"}))
    sweep.journal.trial("ended", whole.model_copy(update={"trial_id": "baseline", "kind": "full"}))
    sweep.journal.trial("ended", whole.model_copy(update={"trial_id": "t0001-seed6", "kind": "replicate"}))
    sweep.journal.close()
    written = latest_trials(read_events(paths.trials_jsonl))
    assert [name for name, trial in written.items() if trial.execution_variants] == ["t0001"]
    assert written["t0001"].execution_variants == execution_variants(plan, whole)
    assert '"execution_variants": [' in paths.front_json.read_text()
    assert Journal(paths, name="n", size="s").trials["t0001"].execution_variants


def test_known_variants_are_not_predicted_again_and_without_figures_there_are_none() -> None:
    plan = plan_with()
    known = finished(plan, execution_variants=[variant(5, 1.0, is_own=True)])
    assert with_variants(plan, known) is known
    for missing in ("peak_memory_bytes", "tokens_per_second"):
        assert with_variants(plan, finished(plan, **{missing: None})).execution_variants is None
