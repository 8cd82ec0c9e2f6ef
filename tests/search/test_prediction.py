"""Which micro-batch a trial's memory is predicted of, and the range of a space."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from search.config import resolve_config
from search.errors import InputError
from search.longest_batch import LongestBatches, MicroBatch
from search.plan import Machine, SweepPlan, _check_budget
from search.prediction import corners, full_length_bytes, memory_range
from search.units import GIB
from trainables.batches import collate, longest_micro_batch, plan_rungs, split_micro
from trainables.chat import TokenizedExample
from trainables.data import PreparedData
from trainables.memory_model import predict_peak
from trainables.modules import sets_of
from trainables.settings import TrialConfig, TrialSpec

SETS = {name: sets_of()[name] for name in ("attention-qv", "all-linear")}


def example(length: int, answer: int) -> TokenizedExample:
    supervised = np.zeros(length, dtype=bool)
    supervised[length - answer :] = True
    return TokenizedExample(np.zeros(length, dtype=np.int32), supervised, truncated=False)


def some_data(count: int = 40) -> PreparedData:
    rng = np.random.default_rng(3)
    # Every third is an answer from its first token on, which nothing predicts.
    train = tuple(
        example(int(n), int(n if k % 3 == 0 else rng.integers(1, n)))
        for k, n in enumerate(rng.integers(8, 96, count))
    )
    return PreparedData(train, train[:2], train[:2], 0, "fingerprint", {})


def plan_with(data: PreparedData | None = None, **flags: Any) -> SweepPlan:
    config = resolve_config(None, flags={"max_examples": 36, **flags})
    machine = Machine("cpu", "2 CPU cores", 2, 1, 64 * GIB)
    targets = {name: SETS["all-linear"] for name in config.search_space.target_sets()} | SETS
    return SweepPlan(config, config.architecture, Path("model"), data or some_data(), targets, machine)


def executed(spec: TrialSpec, **changes: Any) -> TrialSpec:
    return spec.model_copy(update={"execution": spec.execution.model_copy(update=changes)})


@pytest.mark.parametrize("batch_size", [1, 4, 8])
@pytest.mark.parametrize("micro", [None, 2])
@pytest.mark.parametrize("seed", [0, 7])
def test_the_micro_batch_is_the_one_that_the_trial_measures(
    batch_size: int, micro: int | None, seed: int
) -> None:
    plan = plan_with()
    spec = executed(plan.spec("t1", TrialConfig(batch_size=batch_size), seed=seed), micro_batch_size=micro)
    data, at_once = plan.data, min(micro or batch_size, batch_size)
    lengths = [len(each.input_ids) for each in data.train]
    batches = plan_rungs(len(lengths), spec.rungs, batch_size, seed, lengths)
    batch = collate([data.train[i] for i in longest_micro_batch(batches, lengths, at_once)], 0)
    found = LongestBatches(data).of(spec)
    assert (found.examples, found.seq_len) == tuple(batch.input_ids.shape)
    assert found.supervised_positions == int(batch.positions.sum())
    assert found.accumulates == (batch_size > at_once)


def test_devices_share_it_and_the_largest_share_counts() -> None:
    data = PreparedData((example(9, 3), example(10, 3), example(29, 4), example(30, 5)), (), (), 0, "f", {})
    plan = plan_with(data)  # the first rung is one batch of all four
    spec = plan.spec("t1", TrialConfig(batch_size=4))

    def found(**execution: Any) -> MicroBatch:
        return LongestBatches(data).of(executed(spec, **execution))

    assert found() == MicroBatch(4, 30, 15, False)
    assert found(devices_per_trial=2) == MicroBatch(2, 30, 8, False)  # 10 and 30 tokens: every other one
    assert found(devices_per_trial=4) == MicroBatch(1, 30, 5, False)
    assert found(devices_per_trial=2, micro_batch_size=1) == MicroBatch(1, 30, 5, True)
    assert plan.predict_memory(executed(spec, devices_per_trial=3)) > 0  # however they share it


def test_a_trial_is_predicted_on_it_with_its_own_execution() -> None:
    data = PreparedData((example(40, 11),) * 8, (), (), 0, "f", {})
    plan = plan_with(data, max_examples=9)
    spec = executed(plan.spec("t1", TrialConfig(batch_size=4, targets="all-linear")), micro_batch_size=2)
    expected = predict_peak(
        plan.architecture, spec.config, spec.execution, target_modules=spec.target_modules, seq_len=40,
        supervised_positions=22, device="cpu",
    )  # fmt: skip
    assert plan.predict_memory(spec) == expected.peak_bytes
    assert plan.predict_memory(executed(spec, gradient_checkpointing=True)) < expected.peak_bytes
    assert plan.predict_memory(executed(spec, micro_batch_size=None)) > expected.peak_bytes
    assert plan.predict_memory(executed(spec, dtype="fp32")) > expected.peak_bytes


def test_few_examples_make_smaller_batches_than_asked_for() -> None:
    data = PreparedData((example(20, 5),) * 3, (), (), 0, "f", {})
    plan = plan_with(data, max_examples=9)  # rungs at 1, 3 and 9: batches of 1, 2 and 6
    assert LongestBatches(data).of(plan.spec("t1", TrialConfig(batch_size=32))).examples == 6


def test_batches_of_full_length_need_no_less_than_the_real_ones() -> None:
    plan = plan_with()
    for trial in corners(plan.config, plan.targets):
        spec = plan.spec("t1", trial)
        full = full_length_bytes(plan.config, plan.architecture, trial, spec.target_modules, device="cpu")
        assert plan.predict_memory(spec) < full


def test_the_range_knows_every_dimension_that_moves_memory() -> None:
    config = resolve_config(None)
    plain = memory_range(config, config.architecture, SETS)
    dora = resolve_config(None, overrides=["space.use_dora=true"])
    dropout = resolve_config(None, overrides=["space.dropout=[0.0, 0.1]"])
    assert memory_range(dora, config.architecture, SETS)[0] > plain[0]
    low, high = memory_range(dropout, config.architecture, SETS)
    assert low == plain[0]
    assert high > plain[1]


def test_corners_are_configs_of_the_space() -> None:
    config = resolve_config(
        None, overrides=["space.rank={low: 3, high: 9}", "space.batch_size=[8, 2, 4]", "space.dropout=0.1"]
    )
    found = corners(config, SETS)
    assert {(trial.rank, trial.batch_size) for trial in found} == {(3, 2), (3, 8), (9, 2), (9, 8)}
    assert {trial.dropout for trial in found} == {0.1}
    assert {trial.targets for trial in found} == set(SETS)


def test_a_budget_is_judged_by_the_real_batches() -> None:
    plan = plan_with()
    least = plan.least_memory()
    assert least < memory_range(plan.config, plan.architecture, plan.targets)[0]
    _check_budget(plan_with(memory_budget=least))
    with pytest.raises(
        InputError, match="is below the smallest config of the space, which is predicted to need"
    ):
        _check_budget(plan_with(memory_budget=least - 1))


def test_a_module_that_no_llama_has_is_refused_before_anything_runs() -> None:
    plan = plan_with()
    plan.targets["all-linear"] = ("qkv_proj",)
    with pytest.raises(InputError, match="'qkv_proj' is not a linear module of a layer of this llama"):
        _check_budget(plan)


def test_the_longest_of_all_is_found_among_every_rungs_batches() -> None:
    plan = plan_with()
    spec = plan.spec("t1", TrialConfig(batch_size=4))
    lengths = [len(each.input_ids) for each in plan.data.train]
    batches = plan_rungs(len(lengths), spec.rungs, 4, spec.seed, lengths)
    most = max(
        len(micro) * max(lengths[i] for i in micro)
        for rung in batches
        for b in rung
        for micro in split_micro(b, 4)
    )
    found = LongestBatches(plan.data).of(spec)
    assert found.examples * found.seq_len == most
