"""Replicates with new seeds: test loss, marks, retention on the test split, and what is said of them."""

import io
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from analysis.confirmed import against_full_rows, confirmed_rows, picked_from_text
from analysis.front import build_front, front_json
from analysis.headline import claims, headline_lines
from analysis.records import Base, Front, TrialRecord
from analysis.tables import against_full_table, confirmation_table

EXAMPLES = np.linspace(2.5, 3.5, 40)
BASE = Base(eval_loss=4.0, eval_loss_stderr=0.1, test_loss=4.0, test_example_losses=(EXAMPLES + 1).tolist())


def trial(trial_id: str, loss: float, memory: int, **more: Any) -> TrialRecord:
    fields: dict[str, Any] = {
        "status": "completed",
        "config": {"rank": 8},
        "tokens_per_second": 300.0,
        "seed": 0,
    }
    return TrialRecord(
        **(fields | {"trial_id": trial_id, "eval_loss": loss, "peak_memory_bytes": memory} | more)
    )


def replicates(of: str, *shifts: float, **more: Any) -> list[TrialRecord]:
    """One replicate for every shift of all test examples' losses; seeds from 1."""
    random = np.random.default_rng(1)
    found = []
    for seed, shift in enumerate(shifts, 1):
        losses = (EXAMPLES + shift + random.normal(scale=0.01, size=40)).tolist()
        fields = {"kind": "replicate", "replicate_of": of, "seed": seed, "test_example_losses": losses} | more
        found.append(trial(f"{of}-seed{seed}", 3.0, 500, **fields))
    return found


def full(**more: Any) -> TrialRecord:
    fields = {"kind": "full", "test_loss": 3.0, "test_example_losses": EXAMPLES.tolist()}
    return trial("baseline", 3.0, 2000, **(fields | {"tokens_per_second": 100.0} | more))


def front_of(*trials: TrialRecord, base: Base | None = BASE, predicted: int | None = 4000) -> Front:
    return build_front(
        name="n",
        size="s",
        created="c",
        finished=True,
        trials=trials,
        base=base,
        reference_point={"eval_loss": 5.0, "peak_memory_bytes": 9000},
        predicted_full_memory_bytes=predicted,
    )


def text_of(table: Any) -> str:
    console = Console(width=110, color_system=None, record=True, file=io.StringIO())
    console.print(table)
    return console.export_text()


def test_the_mean_over_seeds_becomes_the_test_loss_and_validation_stays_apart() -> None:
    front = front_of(trial("a", 3.2, 900), *replicates("a", 0.2, 0.3, 0.4))
    (record,) = front.trials
    assert record.confirmation is not None
    assert record.confirmation.seeds == [1, 2, 3]
    assert record.confirmation.test_losses == pytest.approx([3.2, 3.3, 3.4], abs=0.01)
    assert record.test_loss == record.confirmation.test_loss == pytest.approx(3.3, abs=0.01)
    low, high = record.confirmation.test_interval or (0, 0)
    assert low < 3.3 < high
    assert record.eval_loss == 3.2
    assert record.trial_id in front_json(front)
    assert "-seed" not in front_json(front)  # replicates are no trials of the search


def test_a_member_that_a_smaller_one_beats_is_marked() -> None:
    worse = [*replicates("small", 0.0, 0.0, 0.01), *replicates("big", 0.3, 0.31, 0.32)]
    front = front_of(trial("small", 3.3, 500), trial("big", 3.1, 900), *worse)
    marks = {t.trial_id: t.confirmation for t in front.trials}
    assert marks["big"] is not None
    assert marks["big"].beaten_by == ["small"]
    assert marks["small"] is not None
    assert marks["small"].beaten_by == marks["small"].not_better_than == []
    row = next(row for row in confirmed_rows(front) if row.trial_id == "big")
    assert row.is_beaten
    assert "beaten by small" in row.note


def test_a_difference_within_the_interval_is_said_to_be_none() -> None:
    alike = [*replicates("small", 0.0, 0.1, 0.05), *replicates("big", 0.1, 0.0, 0.04)]
    front = front_of(trial("small", 3.3, 500), trial("big", 3.1, 900), *alike)
    big = next(t for t in front.trials if t.trial_id == "big").confirmation
    assert big is not None
    assert (big.beaten_by, big.not_better_than) == ([], ["small"])
    assert "not told apart from small" in text_of(confirmation_table(front))


def test_a_better_member_with_more_memory_beats_nobody() -> None:
    better = [*replicates("small", 0.3, 0.31, 0.32), *replicates("big", 0.0, 0.0, 0.01)]
    front = front_of(trial("small", 3.3, 500), trial("big", 3.1, 900), *better)
    assert not any(t.confirmation and t.confirmation.beaten_by for t in front.trials)
    assert not any(t.confirmation and t.confirmation.not_better_than for t in front.trials)


def test_one_seed_marks_nobody_and_failed_seeds_are_counted() -> None:
    one = [*replicates("small", 0.0), *replicates("big", 0.3)]
    front = front_of(trial("small", 3.3, 500), trial("big", 3.1, 900), *one)
    assert not any(t.confirmation and t.confirmation.beaten_by for t in front.trials)
    failed = replicates("a", 0.1, 0.2, 0.3)
    failed[1] = failed[1].model_copy(update={"status": "failed", "test_example_losses": None})
    (record,) = front_of(trial("a", 3.2, 900), *failed).trials
    assert record.confirmation is not None
    assert (record.confirmation.seeds, record.confirmation.failed_seeds) == ([1, 3], [2])
    assert confirmed_rows(front_of(trial("a", 3.2, 900), *failed))[0].seeds == "2, 1 failed"


def test_an_unfinished_replicate_does_not_count() -> None:
    running = [each.model_copy(update={"status": "running"}) for each in replicates("a", 0.1, 0.2)]
    (record,) = front_of(trial("a", 3.2, 900), *running).trials
    assert record.confirmation is None
    assert record.test_loss is None


def test_retention_on_test_with_its_interval() -> None:
    """The base is 1 nat above full fine-tuning, the member 0.1, 0.2, 0.3: 80 %, and t(2) x 0.1 / sqrt(3) around."""
    front = front_of(trial("a", 3.2, 900), *replicates("a", 0.1, 0.2, 0.3), full())
    headline = front.headlines["knee"]
    assert headline == front.headline
    assert headline.retention == pytest.approx(0.8)
    assert headline.test_retention == pytest.approx(0.8, abs=0.01)
    low, high = headline.test_retention_interval or (0, 0)
    assert (high - low) / 2 == pytest.approx(4.303 * 0.1 / np.sqrt(3), rel=0.05)
    assert headline.speedup_interval == pytest.approx((3.0, 3.0))
    assert "with new seeds 80 %, with 95 % confidence" in claims(front)[0].sentence


def test_knee_quality_and_memory_each_have_their_figures() -> None:
    members = [trial("small", 3.9, 400), trial("middle", 3.3, 500), trial("large", 3.1, 1000)]
    front = front_of(*members, full())
    assert {name: h.trial_id for name, h in front.headlines.items()} == {
        "knee": "middle", "quality": "large", "memory": "small",
    }  # fmt: skip
    assert [h.memory_ratio for h in front.headlines.values()] == [0.25, 0.5, 0.2]
    assert [row.pick for row in against_full_rows(front)] == ["recommended", "best quality", "least memory"]
    (only,) = against_full_rows(front_of(members[0], full()))
    assert only.pick == "recommended, best quality, least memory"


def test_without_full_fine_tuning_its_memory_is_predicted_and_marked_so() -> None:
    infeasible = full(status="infeasible", error="predicted 4 KiB, and the device has 1 KiB")
    front = front_of(trial("a", 3.2, 1000), infeasible)
    assert front.headline is None
    headline = front.headlines["knee"]
    assert (headline.memory_ratio, headline.memory_source) == (0.25, "predicted")
    assert headline.retention is headline.speedup is None
    retention, memory, speed = claims(front, infeasible)
    assert (retention.verdict, memory.verdict, speed.verdict) == ("unknown", "met", "unknown")
    assert "the device has 1 KiB" in retention.sentence
    assert "predicted" in memory.title
    lines = headline_lines(front, infeasible)
    assert lines[0].startswith("Recommended: a")
    assert any("predicted to need" in line for line in lines)
    assert "(of a prediction)" in text_of(against_full_table(front))
    assert against_full_table(front_of(trial("a", 3.2, 1000), predicted=None)) is None


def test_it_is_said_from_how_many_evaluations_the_winner_was_picked() -> None:
    rungs = [{"examples_seen": n, "eval_loss": 3.5, "eval_loss_stderr": 0.1} for n in (4, 12)]
    front = front_of(
        trial("a", 3.2, 900, rungs=rungs), trial("b", 3.6, 950, rungs=rungs[:1], status="stopped")
    )
    assert picked_from_text(front).startswith("Picked from 1 completed of 2 LoRA trials, after 3 evaluations")
