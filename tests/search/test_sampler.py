"""The searcher, driven the way Ray Tune drives it, without Ray or training."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from search.config import SweepConfig, resolve_config
from search.errors import InputError
from search.sampler import OptunaSearcher, forget_unfinished, open_study
from trainables.settings import ExecutionSettings, TrialConfig, TrialSpec

SAMPLERS = ["hypervolume", "tpe", "gp", "nsga2", "random", "grid"]
FINITE = [
    "space.learning_rate=[2e-4,1e-3,2e-3]",
    "space.alpha_ratio=[1,2]",
]  # 540 points with the default space's rest
TWELVE = [*FINITE, "space.targets=mlp", "space.batch_size=4", "space.rank=[2,8]"]


def make_spec(number: int, config: TrialConfig, kind: Any = "lora") -> TrialSpec:
    return TrialSpec(
        trial_id=f"t{number:04d}", kind=kind, config=config, execution=ExecutionSettings(),
        target_modules=("q_proj",), rungs=(16, 48, 144), base_model_path="m",
    )  # fmt: skip


def sweep(*overrides: str, sampler: str = "tpe") -> SweepConfig:
    finite = FINITE if sampler == "grid" else []
    return resolve_config(None, overrides=[f"sampler={sampler}", *finite, *overrides])


def searcher(config: SweepConfig, study: Any = None, **options: Any) -> OptunaSearcher:
    study = open_study(config, None) if study is None else study
    return OptunaSearcher(study, config.search_space, make_spec, **{"budget": config.trials, **options})


def report(config: dict[str, Any], examples: int = 144, **more: Any) -> dict[str, Any]:
    """A result as a worker reports it: a smooth loss and memory, and a learning curve."""
    loss = 3 + abs(config["learning_rate"] - 1e-3) * 300 + 1 / config["rank"] + 20 / examples
    memory = 10**9 + 10**7 * config["rank"] * config["batch_size"]
    finished = examples == 144
    return {"examples_seen": examples, "eval_loss": loss, "peak_memory_bytes": memory,
            "finished": finished, "done": finished} | more  # fmt: skip


def run(search: OptunaSearcher, count: int, start: int = 0) -> list[dict[str, Any]]:
    """One worker: every third trial finishes, the others stop at the first rung."""
    configs = []
    for number in range(start, start + count):
        configs.append(search.suggest(f"ray{number}")["spec"]["config"])
        if number % 3 == 0:
            search.on_trial_result(f"ray{number}", report(configs[-1], 16))
        search.on_trial_complete(f"ray{number}", report(configs[-1], 144 if number % 3 == 0 else 16))
    return configs


def keys(configs: list[dict[str, Any]]) -> set[str]:
    return {str(config) for config in configs}


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_suggest_report_complete(sampler: str) -> None:
    search = searcher(sweep("trials=12", sampler=sampler))
    seen = []
    for number in range(12):
        spec = TrialSpec.model_validate(search.suggest(f"ray{number}")["spec"])
        assert spec.trial_id == f"t{number + 1:04d}"
        seen.append(spec.config.model_dump())
        search.on_trial_result(f"ray{number}", report(seen[-1], 16))
        error = number == 4
        result = report(seen[-1], 144 if number % 3 == 0 else 48)
        search.on_trial_complete(f"ray{number}", None if error else result, error=error)
    assert len(keys(seen)) == 12
    assert search.suggest("ray12") == "FINISHED"
    assert not search.used_up
    trials = search._study.trials
    ended = Counter(t.state.name for t in trials if "trial_id" in t.user_attrs)
    assert ended == {"COMPLETE": 4, "PRUNED": 7, "FAIL": 1}
    assert all(trial.values is None for trial in trials if trial.state.name != "COMPLETE")


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_eight_workers_get_eight_different_configs(sampler: str) -> None:
    search = searcher(sweep("trials=16", sampler=sampler))
    run(search, 8)
    in_flight = [search.suggest(f"flight{number}")["spec"]["config"] for number in range(8)]
    assert len(keys(in_flight)) == 8


def test_grid_needs_a_finite_space_and_says_which_dimension_is_not() -> None:
    with pytest.raises(
        InputError, match=r"^sampler: grid needs a finite space, but learning_rate .*=\["
    ) as error:
        resolve_config(None, overrides=["sampler=grid", "space.alpha_ratio=2"])
    assert "\n" not in str(error.value)
    assert "alpha_ratio" not in str(error.value)


@pytest.mark.parametrize("sampler", ["hypervolume", "tpe", "nsga2", "random", "grid"])
def test_a_finite_space_is_used_up_to_the_last_config(sampler: str) -> None:
    search = searcher(resolve_config(None, overrides=[f"sampler={sampler}", "trials=50", *TWELVE]))
    configs = run(search, 12)
    assert len(keys(configs)) == 12
    assert search.suggest("late") == "FINISHED"
    assert search.used_up


def test_a_finite_space_leaves_out_what_already_ran_and_what_is_invalid() -> None:
    pissa = [*TWELVE, "space.rank=8", "space.init=[default,pissa]", "space.use_dora=[true,false]"]
    config = resolve_config(None, overrides=["trials=50", *pissa])  # 24 points, of which 6 are invalid
    ran = config.search_space.to_config(
        {"alpha_ratio": 2, "learning_rate": 1e-3, "rank": 8, "targets": "mlp"}
    )
    search = searcher(config, seen=[ran])
    assert ran.model_dump() not in run(search, 17)
    assert search.suggest("late") == "FINISHED"


def test_a_space_with_a_single_config_runs_it_once() -> None:
    fixed = [
        "space.learning_rate=1e-3",
        "space.alpha_ratio=2",
        "space.rank=8",
        "space.targets=mlp",
        "space.batch_size=4",
    ]
    search = searcher(resolve_config(None, overrides=fixed))
    assert search.suggest("a")["spec"]["config"]["rank"] == 8
    assert search.suggest("b") == "FINISHED"


def test_given_specs_come_first_and_refused_configs_are_told_with_their_excess() -> None:
    refused = []

    def admit(spec: TrialSpec) -> bool:
        if spec.config.rank >= 16:
            refused.append(spec)
        return spec.config.rank < 16

    given = make_spec(9, TrialConfig(), "full")
    search = searcher(
        sweep("trials=4"), first=[given], admit=admit,
        predict=lambda spec: 100.0 * spec.config.rank, memory_budget=1500.0,
    )  # fmt: skip
    assert search.suggest("a")["spec"]["kind"] == "full"
    launched = [search.suggest(str(number))["spec"]["config"]["rank"] for number in range(4)]
    assert max(launched) < 16
    told = [trial for trial in search._study.trials if trial.state.name == "PRUNED"]
    assert len(told) == len(refused) > 0
    for spec, trial in zip(refused, told, strict=True):
        assert trial.constraints["memory_budget"] == pytest.approx(spec.config.rank / 15 - 1)
        assert trial.user_attrs["peak_memory_bytes"] == 100 * spec.config.rank


def test_a_budget_that_nothing_meets_ends_the_sweep() -> None:
    search = searcher(sweep("trials=4", sampler="random"), admit=lambda spec: False)
    assert search.suggest("a") == "FINISHED"
    assert search.used_up


def test_running_out_of_memory_is_infeasible_and_a_failure_fails() -> None:
    search = searcher(sweep("trials=4"), predict=lambda spec: 90.0, memory_budget=100.0)
    search.suggest("a")
    search.on_trial_complete("a", {"failure": "out of memory", "infeasible": True, "done": True})
    config = search.suggest("b")["spec"]["config"]
    search.on_trial_result("b", report(config, 16))
    search.on_trial_complete("b", {"failure": "diverged", "infeasible": False, "done": True})
    memory, failed = search._study.trials
    assert (memory.state.name, failed.state.name) == ("PRUNED", "FAIL")
    assert memory.constraints["memory_budget"] > 0
    assert not failed.constraints


def test_a_paused_trial_is_told_when_it_ends_with_what_it_had_reported() -> None:
    search = searcher(sweep("trials=4"))
    for name in ("promoted", "left"):
        search.on_trial_result(name, report(search.suggest(name)["spec"]["config"], 16))
    assert [trial.state.name for trial in search._study.trials] == ["RUNNING", "RUNNING"]
    search.on_trial_complete("promoted", report({"learning_rate": 1e-3, "rank": 8, "batch_size": 4}))
    search.on_trial_complete("left")  # as Tune ends a paused trial: without a result
    promoted, left = search._study.trials
    assert (promoted.state.name, left.state.name) == ("COMPLETE", "PRUNED")
    assert [examples for examples, _ in promoted.user_attrs["rungs"]] == [16, 144]
    assert [examples for examples, _ in left.user_attrs["rungs"]] == [16]


@pytest.mark.parametrize("sampler", ["hypervolume", "tpe", "nsga2", "random"])
def test_a_resumed_sweep_goes_on_as_if_undisturbed(tmp_path: Path, sampler: str) -> None:
    config = sweep("trials=12", sampler=sampler)
    undisturbed = run(searcher(config), 12)
    first = run(searcher(config, open_study(config, str(tmp_path / "b.db"))), 6)
    seen = [TrialConfig.model_validate(each) for each in first]
    study = open_study(config, str(tmp_path / "b.db"))
    resumed = run(searcher(config, study, seen=seen, next_number=7, budget=6), 6, start=6)
    assert first + resumed == undisturbed
    other = config.model_copy(update={"seed": 1})
    assert run(searcher(other), 1) != undisturbed[:1]


def test_the_gaussian_process_goes_on_alike_in_another_study_object() -> None:
    config = sweep("trials=8", sampler="gp")  # four random suggestions, then its own
    study = open_study(config, None)
    first = run(searcher(config, study), 5)
    study.sampler = open_study(config, None).sampler  # knows nothing but what it reads in the study
    seen = [TrialConfig.model_validate(each) for each in first]
    resumed = run(searcher(config, study, seen=seen, next_number=6, budget=2), 2, start=5)
    assert first + resumed == run(searcher(config), 7)


def test_a_resumed_trial_is_told_to_its_own_entry(tmp_path: Path) -> None:
    config, path = sweep("trials=4"), str(tmp_path / "optuna.db")
    search = searcher(config, open_study(config, path))
    specs = [TrialSpec.model_validate(search.suggest(str(number))["spec"]) for number in range(3)]
    search.on_trial_result("1", report(specs[1].config.model_dump(), 16))
    study = open_study(config, path)  # the driver was killed: three trials are RUNNING
    forget_unfinished(study, keep=["t0001"])
    assert [trial.state.name for trial in study.trials] == ["RUNNING", "PRUNED", "FAIL"]
    again = searcher(config, study, first=[specs[0]])
    assert again.suggest("new")["spec"]["trial_id"] == "t0001"
    again.on_trial_complete("new", report(specs[0].config.model_dump()))
    assert study.trials[0].state.name == "COMPLETE"
    # A stopped trial that the scheduler revives past the searcher gets a new entry with what it had.
    again.on_trial_complete("revived", report(specs[1].config.model_dump(), trial="t0002"))
    assert study.trials[3].state.name == "COMPLETE"
    assert [examples for examples, _ in study.trials[3].user_attrs["rungs"]] == [16, 144]


def test_the_baseline_is_not_the_studys_business() -> None:
    search = searcher(sweep("trials=4"), first=[make_spec(0, TrialConfig(), "full")])
    search.suggest("base")
    search.on_trial_complete("base", report(TrialConfig().model_dump(), trial="baseline"))
    assert search._study.trials == []


def test_the_recommended_config_can_be_tried_first() -> None:
    config = sweep("trials=4")
    study = open_study(config, None)
    study.enqueue_trial(config.search_space.restrict(config.recommended))
    first = searcher(config, study).suggest("a")["spec"]["config"]
    assert first["learning_rate"] == config.recommended["learning_rate"]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_start_that_lies_only_partly_in_the_space_is_completed(sampler: str) -> None:
    """For instance the recommended config where the space leaves its rank out."""
    config = sweep("space.rank=[16,32,64]", "trials=3", sampler=sampler)
    study = open_study(config, None)
    start = config.search_space.restrict(config.recommended)
    assert start
    assert "rank" not in start
    study.enqueue_trial(start)
    first = TrialSpec.model_validate(searcher(config, study).suggest("ray0")["spec"]).config
    assert first.rank in (16, 32, 64)
    assert first.batch_size == start["batch_size"]
    assert first.targets == start["targets"]
