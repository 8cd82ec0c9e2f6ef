"""Contract of searcher and scheduler, driven the way Tune drives them, without Ray or training."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from search.config import SweepConfig, resolve_config
from search.pareto_asha import PastReport
from search.rung import Report
from search.sampler import OptunaSearcher, forget_unfinished, open_study
from search.scheduler import AshaOnExamples, make_scheduler
from trainables.settings import ExecutionSettings, TrialConfig, TrialSpec


def make_spec(number: int, config: TrialConfig, kind: Any = "lora") -> TrialSpec:
    return TrialSpec(
        trial_id=f"t{number:04d}", kind=kind, config=config, execution=ExecutionSettings(),
        target_modules=("q_proj",), rungs=(4, 12, 36), base_model_path="m",
    )  # fmt: skip


def searcher(config: SweepConfig, folder: Path, **options: Any) -> OptunaSearcher:
    study = open_study(config, str(folder / "optuna.db"))
    return OptunaSearcher(study, config.search_space, make_spec, **{"budget": config.trials, **options})


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_suggest_report_complete(tmp_path: Path, sampler: str) -> None:
    config = resolve_config(None, overrides=["trials=12", f"sampler={sampler}"])
    search = searcher(config, tmp_path)
    seen = set()
    for number in range(12):
        spec = TrialSpec.model_validate(search.suggest(f"ray{number}")["spec"])
        assert spec.trial_id == f"t{number + 1:04d}"
        seen.add(spec.config.model_dump_json())
        finished = number % 3 == 0
        result = {"eval_loss": 3.0 + number, "peak_memory_bytes": 10**9 + number, "finished": finished}
        search.on_trial_complete(f"ray{number}", result if number != 4 else None, error=number == 4)
    assert len(seen) == 12
    assert search.suggest("ray12") == "FINISHED"
    states = [trial.state.name for trial in search._study.trials]
    assert (states.count("COMPLETE"), states.count("PRUNED"), states.count("FAIL")) == (4, 7, 1)
    assert all(trial.values is None for trial in search._study.trials if trial.state.name != "COMPLETE")


def test_a_small_space_ends_instead_of_repeating(tmp_path: Path) -> None:
    fixed = ["space.learning_rate=1e-3", "space.alpha_ratio=2", "space.targets=mlp", "space.batch_size=4"]
    config = resolve_config(None, overrides=[*fixed, "space.rank=[2, 4, 8]"])
    search = searcher(config, tmp_path)
    ranks = []
    while (suggested := search.suggest(f"ray{len(ranks)}")) != "FINISHED":
        ranks.append(suggested["spec"]["config"]["rank"])
    assert sorted(ranks) == [2, 4, 8]
    assert search.used_up


def test_given_specs_come_first_and_refused_configs_are_not_launched(tmp_path: Path) -> None:
    config = resolve_config(None, overrides=["trials=4"])
    refused = []

    def admit(spec: TrialSpec) -> bool:
        if spec.config.rank >= 16:
            refused.append(spec)
        return spec.config.rank < 16

    given = make_spec(9, TrialConfig(), "full")
    search = searcher(config, tmp_path, first=[given], admit=admit)
    assert search.suggest("a")["spec"]["kind"] == "full"
    launched = [search.suggest(str(number))["spec"]["config"]["rank"] for number in range(4)]
    assert max(launched) < 16
    assert refused


def test_the_same_seed_suggests_the_same(tmp_path: Path) -> None:
    config = resolve_config(None)
    runs = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        search = searcher(config, tmp_path / name)
        configs = []
        for number in range(8):
            configs.append(search.suggest(str(number))["spec"]["config"])
            loss = 3.0 + configs[-1]["learning_rate"]
            search.on_trial_complete(
                str(number), {"eval_loss": loss, "peak_memory_bytes": configs[-1]["rank"], "finished": True}
            )
        runs.append(configs)
    assert runs[0] == runs[1]


def test_trials_of_a_killed_driver_do_not_stay_running(tmp_path: Path) -> None:
    config = resolve_config(None)
    searcher(config, tmp_path).suggest("a")
    study = open_study(config, str(tmp_path / "optuna.db"))
    forget_unfinished(study)
    assert [trial.state.name for trial in study.trials] == ["FAIL"]


def tune_trial(number: int, kind: str = "lora") -> Any:
    return SimpleNamespace(trial_id=f"ray{number}", config={"spec": {"kind": kind}})


def test_asha_keeps_the_best_third_and_never_stops_the_baseline() -> None:
    scheduler: Any = AshaOnExamples((4, 12, 36), 3)
    decisions = []
    for number, loss in enumerate([3.0, 2.0, 4.0, 1.0, 5.0]):
        trial = tune_trial(number)
        scheduler.on_trial_add(None, trial)
        decisions.append(scheduler.on_trial_result(None, trial, {"examples_seen": 4, "eval_loss": loss}))
    assert decisions == ["CONTINUE", "CONTINUE", "STOP", "CONTINUE", "STOP"]
    baseline = tune_trial(9, "full")
    scheduler.on_trial_add(None, baseline)
    assert scheduler.on_trial_result(None, baseline, {"examples_seen": 4, "eval_loss": 99.0}) == "CONTINUE"
    scheduler.on_trial_complete(None, baseline, {"examples_seen": 36, "eval_loss": 99.0})


def test_asha_remembers_an_earlier_launch() -> None:
    found = [("t0001", 1.0), ("t0002", 1.1), ("t0003", 1.2)]
    past = [PastReport(name, 4, Report(loss, 0.0, 1), "ended") for name, loss in found]
    scheduler: Any = make_scheduler("asha", (4, 12, 36), 3, past)
    trial = tune_trial(1)
    scheduler.on_trial_add(None, trial)
    assert scheduler.on_trial_result(None, trial, {"examples_seen": 4, "eval_loss": 3.0}) == "STOP"


def test_a_failed_trial_without_loss_is_no_news_for_asha() -> None:
    scheduler: Any = AshaOnExamples((4, 12, 36), 3)
    trial = tune_trial(1)
    scheduler.on_trial_add(None, trial)
    scheduler.on_trial_complete(None, trial, {"failure": "diverged"})
    assert scheduler.debug_string()
