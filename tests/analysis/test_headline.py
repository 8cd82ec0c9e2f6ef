from typing import Any

import pytest

from analysis.front import build_front
from analysis.headline import claims, headline_lines, recommended
from analysis.records import Base, Front, TrialRecord
from analysis.results import Run
from tests.analysis.synthetic import BASE, full_trial

TRIAL = TrialRecord(
    trial_id="t1",
    status="completed",
    config={"rank": 8, "alpha": 16.0, "targets": "mlp"},
    eval_loss=3.0,
    eval_loss_stderr=0.1,
    peak_memory_bytes=2**30,
    tokens_per_second=380.0,
)


def front_with(
    *, trial: dict[str, Any] | None = None, full: dict[str, Any] | None = None, base: Base | None = BASE
) -> Front:
    trials = [TRIAL.model_copy(update=trial or {}), full_trial(**(full or {}))]
    point = {"eval_loss": 5.0, "peak_memory_bytes": 1e12}
    return build_front(
        name="n", size="s", created="c", finished=True, trials=trials, base=base, reference_point=point
    )


def test_three_sentences_with_what_is_claimed(run: Run) -> None:
    lines = headline_lines(run.front)
    assert [line.split(":")[0] for line in lines] == ["Quality", "Memory", "Speed"]
    assert all("claimed" in line and line.endswith(".") for line in lines)


def test_measured_beside_claimed() -> None:
    retention, memory, speed = claims(front_with(full={"peak_memory_bytes": 4 * 2**30}))
    assert (retention.value, retention.verdict) == ("90 %", "met")
    assert (memory.value, memory.verdict) == ("25 %", "met")
    assert (speed.value, speed.verdict) == ("2.00 ×", "met")
    assert "1.00 GiB against 4.00 GiB" in memory.sentence


@pytest.mark.parametrize(("loss", "value", "verdict"), [(3.02, "89 %", "missed"), (3.0018, "90 %", "met")])
def test_figures_are_judged_as_they_are_shown(loss: float, value: str, verdict: str) -> None:
    claim = claims(front_with(trial={"eval_loss": loss}))[0]
    assert (claim.value, claim.verdict) == (value, verdict)


@pytest.mark.parametrize(
    ("trial", "wording"),
    [
        ({"eval_loss": 5.0}, "worse than the untouched model"),
        ({"eval_loss": 2.5}, "better than full fine-tuning did here"),
        ({"eval_loss": 3.9}, "43 % of full fine-tuning's gain is kept"),
    ],
)
def test_unflattering_and_surprising_retention_is_said_plainly(trial: dict[str, Any], wording: str) -> None:
    assert wording in claims(front_with(trial=trial))[0].sentence


def test_more_memory_and_less_speed_are_said_plainly() -> None:
    _, memory, speed = claims(front_with(trial={"peak_memory_bytes": 3 * 2**30, "tokens_per_second": 95.0}))
    assert "no less than" in memory.sentence
    assert "(slower)" in speed.sentence
    assert (memory.verdict, speed.verdict) == ("missed", "missed")


@pytest.mark.parametrize(
    ("base", "full", "why"),
    [
        (None, {}, "untouched model was not evaluated"),
        (BASE, {"eval_loss": 4.9}, "did not improve on the untouched model"),
    ],
)
def test_unknown_retention_says_why(base: Base | None, full: dict[str, Any], why: str) -> None:
    front = front_with(base=base, full=full)
    retention, memory, _ = claims(front)
    assert (retention.value, retention.verdict) == ("–", "unknown")
    assert why in retention.sentence
    assert memory.verdict != "unknown"
    assert len(headline_lines(front)) == 3


def test_without_a_baseline_the_reason_is_given() -> None:
    front = front_with(full={"status": "failed"})
    assert "was not run" in claims(front)[0].sentence
    failed = full_trial(status="failed", error="out of memory")
    assert "is failed (out of memory)" in claims(front, failed)[0].sentence
    lines = headline_lines(front, failed)
    assert lines[0] == "Recommended: t1 (r 8, α 16, mlp), loss 3.000 ± 0.100, 1.00 GiB."
    assert "out of memory" in lines[1]


def test_a_trial_without_a_speed_says_so() -> None:
    assert "no training speed" in claims(front_with(trial={"tokens_per_second": None}))[0].sentence


def test_nothing_completed() -> None:
    front = front_with(trial={"status": "failed"})
    assert recommended(front) is None
    assert headline_lines(front) == ["No trial has completed, so there is nothing to recommend yet."]
    assert {claim.verdict for claim in claims(front)} == {"unknown"}
