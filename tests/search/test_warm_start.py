"""What a new sweep takes from an earlier one: points to try first, and trials that count as run."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from analysis.records import Event, TrialRecord
from analysis.results import load_run
from search.config import resolve_config
from search.errors import InputError
from search.history import trial_config
from search.showcase import observe
from search.space import SearchSpace
from search.study import TRIAL_ID, enter_adopted, open_study
from search.warm_start import copy_adapter, exact_point, nearest_point, read_warm_start
from tests.analysis.synthetic import SWEEP_EVENT, SWEEP_YAML, write_events, write_run

SPACE = SearchSpace(SWEEP_YAML["space"])
CONFIG = {
    "rank": 8, "alpha": 16.0, "targets": "mlp", "learning_rate": 1e-3, "batch_size": 4, "dropout": 0.0,
    "weight_decay": 0.0, "warmup_ratio": 0.1, "use_rslora": False, "use_dora": False, "init": "default",
}  # fmt: skip
POINT = {"alpha_ratio": 2.0, "batch_size": 4, "learning_rate": 1e-3, "rank": 8, "targets": "mlp"}


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("earlier") / "demo")


def plan_for(path: Path, *, fingerprint: str = "9f3a61c2", device: str = "cpu", **changes: Any) -> Any:
    """What of a plan a warm start looks at, for the synthetic run's settings."""
    settings = {key: SWEEP_YAML[key] for key in ("data", "execution", "baseline", "space")} | {
        "memory_budget": None
    }
    config = resolve_config(None, flags=settings | {"warm_start": str(path), "confirm": 0} | changes)
    return SimpleNamespace(
        config=config, data=SimpleNamespace(fingerprint=fingerprint), machine=SimpleNamespace(device=device)
    )


def test_a_config_inside_the_space_is_its_own_point() -> None:
    assert nearest_point(CONFIG, SPACE) == exact_point(CONFIG, SPACE) == POINT


@pytest.mark.parametrize(
    ("changes", "dimension", "nearest"),
    [
        ({"rank": 100, "alpha": 200.0}, "rank", 64),
        ({"rank": 12, "alpha": 24.0}, "rank", 16),  # by ratio: 12 / 8 is more than 16 / 12
        ({"alpha": 160.0}, "alpha_ratio", 4.0),
        ({"learning_rate": 1e-5}, "learning_rate", 2e-4),
        ({"batch_size": 1}, "batch_size", 2),
        ({"targets": "q_proj"}, "targets", None),
        ({"dropout": 0.05}, "dropout", None),
    ],
)
def test_outside_the_space_the_nearest_point_is_tried(
    changes: dict[str, Any], dimension: str, nearest: Any
) -> None:
    config = {**CONFIG, **changes}
    assert exact_point(config, SPACE) is None
    assert nearest_point(config, SPACE) == {
        name: value
        for name, value in {**POINT, dimension: nearest}.items()
        if value is not None and name in SPACE.dimensions
    }


def test_steps_and_whole_numbers() -> None:
    space = SearchSpace({"rank": {"low": 4, "high": 20, "step": 4}, "alpha": [8.0, 16.0]})
    assert nearest_point({**CONFIG, "rank": 11}, space) == {"rank": 12, "alpha": 16.0}
    assert nearest_point({"rank": 100, "alpha_ratio": 0.1}, space) == {"rank": 20, "alpha": 8.0}


def test_trials_of_the_same_settings_count_as_run(earlier: Path) -> None:
    run = load_run(earlier)
    warm = read_warm_start(plan_for(earlier))
    ended = [t for t in run.front.trials if t.status in ("completed", "stopped")]
    lora = [t for t in warm.adopted if t.kind == "lora"]
    assert [t.trial_id for t in lora] == [f"w{n:04d}" for n in range(1, len(ended) + 1)]
    assert [t.adopted_from for t in lora] == [f"demo/{t.trial_id}" for t in ended]
    assert [t.eval_loss for t in lora] == [t.eval_loss for t in ended]
    assert {t.kind for t in warm.adopted} == {"lora", "full"}
    assert warm.base == run.base
    assert warm.points == []  # the whole front counts as run
    assert replace(warm, software=None).describe() == (
        f"warm start: {len(ended)} trials taken over, 0 more configs tried first"
    )


def test_trials_of_other_software_are_taken_over_and_it_is_said(
    earlier: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = SWEEP_EVENT["versions"]
    here = recorded | {"torch": recorded["torch"].partition("+")[0] + "+cu130", "peft": "0.21.2"}
    monkeypatch.setattr("search.foreign_run.software_versions", lambda: here)
    text = read_warm_start(plan_for(earlier)).describe()
    assert f" trials taken over as measured with peft {recorded['peft']}, " in text
    # Where all trials run anew, what the old ones were measured with says nothing.
    assert "measured with" not in read_warm_start(plan_for(earlier, fingerprint="other")).describe()


@pytest.mark.parametrize(
    "changes",
    [
        {"fingerprint": "other"},
        {"device": "cuda"},
        {"max_examples": 432},
        {"execution": {"micro_batch_size": 1}},
        {"base_model": "owner/other"},
    ],
    ids=str,
)
def test_of_other_settings_only_the_front_is_tried_first(earlier: Path, changes: dict[str, Any]) -> None:
    warm = read_warm_start(plan_for(earlier, **changes))
    members = [t for t in load_run(earlier).front.trials if t.on_front]
    assert (warm.adopted, warm.base) == ([], None)
    assert len(warm.points) == len(members) > 1


def test_speed_settings_do_not_matter(earlier: Path) -> None:
    assert read_warm_start(plan_for(earlier, execution={"threads": 7, "eval_batch_size": 3})).adopted


def test_trials_outside_the_new_space_stay_out(earlier: Path) -> None:
    run = load_run(earlier)
    unwanted = next(t for t in run.front.trials if t.on_front).config["rank"]
    ranks = [rank for rank in SWEEP_YAML["space"]["rank"] if rank != unwanted]
    warm = read_warm_start(plan_for(earlier, space=SWEEP_YAML["space"] | {"rank": ranks}))
    inside = [t for t in run.front.trials if t.config["rank"] in ranks and t.rungs]
    assert sum(t.kind == "lora" for t in warm.adopted) == len(inside) < len(run.front.trials)
    left = [t for t in run.front.trials if t.on_front and t.config["rank"] == unwanted]
    assert len(warm.points) == len(left) > 0
    assert all(point["rank"] in ranks for point in warm.points)


def test_over_this_sweeps_memory_budget_is_infeasible(earlier: Path) -> None:
    memories = [t.peak_memory_bytes for t in load_run(earlier).front.trials if t.rungs]
    budget = sorted(m for m in memories if m)[len(memories) // 2]
    adopted = read_warm_start(plan_for(earlier, memory_budget=budget)).adopted
    over = [t for t in adopted if t.kind == "lora" and (t.peak_memory_bytes or 0) > budget]
    assert over
    assert all(t.status == "infeasible" and "over the budget" in (t.error or "") for t in over)


def test_full_fine_tuning_is_taken_over_only_with_the_same_settings(earlier: Path) -> None:
    for changes in ({"baseline": {"learning_rate": 2e-4}}, {"baseline": {"enabled": False}}, {"confirm": 2}):
        adopted = read_warm_start(plan_for(earlier, **changes)).adopted
        assert adopted
        assert all(t.kind == "lora" for t in adopted), changes
    assert read_warm_start(plan_for(earlier, confirm=2)).base is None  # it has no test loss


def test_the_adapter_of_a_front_member_is_copied(earlier: Path, tmp_path: Path) -> None:
    from analysis.records import RunPaths

    adopted = read_warm_start(plan_for(earlier)).adopted
    with_adapter = [t for t in adopted if t.checkpoint]
    members = [t for t in load_run(earlier).front.trials if t.on_front]
    assert len(with_adapter) == len(members)
    copied = copy_adapter(with_adapter[0], RunPaths(tmp_path))
    assert copied.checkpoint == f"tune/adopted/{copied.trial_id}"
    assert (tmp_path / copied.checkpoint / "adapter" / "adapter_model.safetensors").is_file()
    gone = with_adapter[0].model_copy(update={"checkpoint": str(tmp_path / "nowhere")})
    assert copy_adapter(gone, RunPaths(tmp_path)).checkpoint is None


def test_a_preset_is_tried_first(earlier: Path, tmp_path: Path) -> None:
    from analysis.export import export_preset

    run = load_run(earlier)
    member = next(t for t in run.front.trials if t.on_front)
    folder = export_preset(run, member, tmp_path / "preset")
    for path in (folder, folder / "preset.yaml"):
        warm = read_warm_start(plan_for(path))
        assert warm.adopted == ()
        (point,) = warm.points
        assert point == pytest.approx(exact_point(member.config, SPACE))


def test_bad_paths_are_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "odd.yaml").write_text("size: smollm2-135m\n")
    for path, words in (
        (tmp_path / "none", "neither a run folder nor a preset"),
        (tmp_path / "odd.yaml", "sweep.rec"),
    ):
        with pytest.raises(InputError, match=words):
            read_warm_start(plan_for(path))


def test_the_study_sees_adopted_trials_as_they_ended(earlier: Path) -> None:
    plan = plan_for(earlier, memory_budget=int(0.9 * 2**30))
    study = open_study(plan.config, None)
    lora = [t for t in read_warm_start(plan).adopted if t.kind == "lora"]
    space = plan.config.search_space
    for _ in range(2):  # once is enough, however often a sweep is resumed
        enter_adopted(study, space, [(t, exact_point(t.config, space)) for t in lora])
    assert [t.user_attrs[TRIAL_ID] for t in study.trials] == [t.trial_id for t in lora]
    states = {"completed": "finished", "stopped": "stopped", "infeasible": "infeasible"}
    for record, trial in zip(lora, study.trials, strict=True):
        seen = observe(trial, trial.state, trial.values, 144)
        assert seen is not None
        assert seen.state == states[record.status]
        assert seen.loss == record.eval_loss
        there = space.config_at(trial.params)
        assert there.alpha == pytest.approx(record.config["alpha"])  # through alpha / rank and back
        assert there.model_copy(update={"alpha": record.config["alpha"]}) == trial_config(record)
    asked = study.ask()
    assert set(space.suggest(asked)) == set(space.dimensions)


def test_an_earlier_run_that_is_still_running_can_be_used(tmp_path: Path) -> None:
    record = TrialRecord(trial_id="t0001", config=CONFIG)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "sweep.yaml").write_text(yaml.safe_dump(SWEEP_YAML))
    events = [
        Event(event="sweep", time="t", sweep=SWEEP_EVENT),
        Event(event="started", time="t", trial=record),
    ]
    write_events(tmp_path / "run", events)
    warm = read_warm_start(plan_for(tmp_path / "run"))
    assert (warm.points, warm.adopted, warm.base) == ([], [], None)
