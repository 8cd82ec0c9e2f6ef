import json
import math
from pathlib import Path
from typing import Any

import pytest

from analysis.against_full import headline_for
from analysis.front import (
    build_front,
    front_json,
    front_members,
    knee,
    reference_point,
    sweep_facts,
    write_front,
)
from analysis.records import Base, Baseline, Event, Front, TrialRecord
from analysis.results import Run
from tests.analysis.synthetic import BASE, full_trial

REFERENCE = {"eval_loss": 5.0, "peak_memory_bytes": 1000.0}


def trial(trial_id: str, loss: float | None, memory: int | None, **changes: Any) -> TrialRecord:
    fields: dict[str, Any] = {"status": "completed", "config": {"rank": 8}, "tokens_per_second": 300.0}
    fields |= {"trial_id": trial_id, "eval_loss": loss, "peak_memory_bytes": memory}
    return TrialRecord(**(fields | changes))


def front_of(
    *trials: TrialRecord, base: Base | None = BASE, reference: dict[str, float] = REFERENCE
) -> Front:
    return build_front(
        name="n", size="s", created="c", finished=True, trials=trials, base=base, reference_point=reference
    )


def on_front(front: Front) -> list[str]:
    return [record.trial_id for record in front.trials if record.on_front]


def test_the_front_is_what_no_completed_trial_dominates() -> None:
    front = front_of(trial("a", 3.0, 900), trial("b", 3.5, 500), trial("c", 3.6, 600), trial("d", 3.5, 500))
    assert on_front(front) == ["a", "b", "d"]
    assert [record.trial_id for record in front_members(front)] == ["b", "d", "a"]
    assert front.hypervolume == pytest.approx((5 - 3.5) * (1000 - 500) + (3.5 - 3.0) * (1000 - 900))


@pytest.mark.parametrize("status", ["stopped", "infeasible", "failed", "running"])
def test_only_completed_trials_are_on_the_front(status: str) -> None:
    front = front_of(trial("better", 1.0, 1, status=status, on_front=True), trial("a", 3.0, 900))
    assert on_front(front) == ["a"]


@pytest.mark.parametrize(("loss", "memory"), [(math.nan, 1), (math.inf, 1), (None, 1), (1.0, None)], ids=str)
def test_a_completed_trial_without_finite_objectives_is_not_on_the_front(
    loss: float | None, memory: int | None
) -> None:
    assert on_front(front_of(trial("odd", loss, memory), trial("a", 3.0, 900))) == ["a"]


def test_the_records_given_stay_as_they_are() -> None:
    record = trial("a", 3.0, 900)
    front_of(record)
    assert record.on_front is False


def test_full_fine_tuning_is_the_baseline_and_no_trial() -> None:
    full = full_trial(eval_loss=2.0, peak_memory_bytes=5)
    front = front_of(trial("a", 3.0, 900), full)
    assert [record.trial_id for record in front.trials] == ["a"]
    assert front.baseline == Baseline(
        eval_loss=2.0, peak_memory_bytes=5, train_seconds=61.0, tokens_per_second=190.0
    )


@pytest.mark.parametrize("changes", [{"status": "failed"}, {"eval_loss": None}, {"peak_memory_bytes": None}])
def test_a_full_trial_that_did_not_complete_is_no_baseline(changes: dict[str, Any]) -> None:
    front = front_of(trial("a", 3.0, 900), full_trial(**changes))
    assert front.baseline is None
    assert front.headline is None
    assert [record.trial_id for record in front.trials] == ["a"]


def test_headline_is_that_of_the_knee() -> None:
    best, cheap = trial("best", 3.0, 900), trial("cheap", 4.5, 100)
    middle = trial("middle", 3.1, 200, tokens_per_second=380.0)
    full = full_trial(eval_loss=2.81, peak_memory_bytes=1000)
    headline = front_of(best, cheap, middle, full).headline
    assert headline is not None
    assert headline.trial_id == "middle"
    assert headline.retention == pytest.approx((4.71 - 3.1) / (4.71 - 2.81))
    assert headline.memory_ratio == pytest.approx(0.2)
    assert headline.speedup == pytest.approx(2.0)


@pytest.mark.parametrize("base", [None, Base(eval_loss=2.8, eval_loss_stderr=0.1)])
def test_retention_is_unknown_when_there_is_no_gain_to_keep(base: Base | None) -> None:
    headline = front_of(trial("a", 3.0, 900), full_trial(), base=base).headline
    assert headline is not None
    assert headline.retention is None


def test_no_headline_without_the_figures_it_needs() -> None:
    baseline = Baseline(eval_loss=2.0, peak_memory_bytes=10, train_seconds=1.0, tokens_per_second=10.0)
    complete = trial("a", 3.0, 900)
    assert headline_for(complete, BASE, baseline) is not None
    assert headline_for(complete, BASE, None) is None
    assert headline_for(trial("a", 3.0, 900, tokens_per_second=None), BASE, baseline) is None
    assert headline_for(trial("a", None, 900), BASE, baseline) is None
    stuck = baseline.model_copy(update={"tokens_per_second": 0.0})
    assert headline_for(complete, BASE, stuck) is None


def test_an_empty_sweep_has_an_empty_front() -> None:
    front = front_of()
    assert front.hypervolume == 0
    assert front.headline is None
    assert front_members(front) == []
    with pytest.raises(ValueError, match="no knee"):
        knee([])


def test_reference_point_is_completed_by_the_base_loss() -> None:
    sweep = Event(
        event="sweep", time="t", sweep={"reference_point": {"eval_loss": None, "peak_memory_bytes": 7}}
    )
    seen = Event(event="ended", time="t", trial=trial("a", 3.5, 900))
    diverged = Event(event="ended", time="t", trial=trial("b", math.inf, 900))
    base = Event(event="base", time="t", base=BASE)
    assert reference_point([sweep]) == {"eval_loss": 0.0, "peak_memory_bytes": 7}
    assert reference_point([sweep, seen, diverged]) == {"eval_loss": 3.5, "peak_memory_bytes": 7}
    assert reference_point([sweep, seen, base]) == {"eval_loss": 4.71, "peak_memory_bytes": 7}
    assert reference_point([seen, base]) == {"eval_loss": 4.71, "peak_memory_bytes": 900}
    assert reference_point([]) == {"eval_loss": 0.0, "peak_memory_bytes": 0}


def test_the_newest_sweep_event_wins_key_by_key() -> None:
    first = {
        "finished": False,
        "device": "CPU",
        "reference_point": {"eval_loss": 9.0, "peak_memory_bytes": 7},
    }
    events = [
        Event(event="sweep", time="t", sweep=first),
        Event(event="sweep", time="t", sweep={"finished": True}),
    ]
    assert sweep_facts(events) == {**first, "finished": True}
    assert reference_point(events) == {"eval_loss": 9.0, "peak_memory_bytes": 7}


def test_front_json_has_the_fixed_shape(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "front.json"
    write_front(run.front, path)
    content = json.loads(path.read_text())
    assert content["schema"] == 1
    assert set(content) >= {
        "schema", "name", "size", "created", "finished", "objectives", "reference_point", "hypervolume",
        "base", "baseline", "headline", "trials",
    }  # fmt: skip
    assert content["objectives"] == [
        {"name": "eval_loss", "direction": "min"},
        {"name": "peak_memory_bytes", "direction": "min"},
    ]
    assert set(content["headline"]) >= {"retention", "memory_ratio", "speedup", "trial_id"}
    assert content["baseline"]["kind"] == "full"
    assert Front.model_validate(content) == run.front


def test_front_json_never_says_nan() -> None:
    front = front_of(trial("a", math.nan, 900, config={"x": math.inf}), trial("b", 3.0, 900))

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    content = json.loads(front_json(front), parse_constant=refuse)
    assert content["trials"][0]["eval_loss"] is None
    assert content["trials"][0]["config"] == {"x": None}
