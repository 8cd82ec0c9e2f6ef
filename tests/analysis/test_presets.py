from typing import Any

import pytest

from analysis.front import build_front
from analysis.presets import pick
from analysis.records import Front, TrialRecord
from analysis.results import Run
from search.errors import InputError

GIB = 2**30


def front_of(*points: tuple[str, float, float], extra: list[TrialRecord] | None = None) -> Front:
    """A front of completed trials (id, loss, GiB) and others."""

    def trial(trial_id: str, loss: float, gib: float) -> TrialRecord:
        memory = int(gib * GIB)
        return TrialRecord(
            trial_id=trial_id, status="completed", config={}, eval_loss=loss, peak_memory_bytes=memory
        )

    trials = [trial(*point) for point in points] + (extra or [])
    point = {"eval_loss": 9.0, "peak_memory_bytes": 99.0 * GIB}
    return build_front(
        name="n", size="s", created="c", finished=True, trials=trials, base=None, reference_point=point
    )


FRONT = front_of(
    ("small", 4.0, 8), ("middle", 3.1, 10), ("large", 3.0, 20), ("dominated", 3.5, 15),
    extra=[
        TrialRecord(trial_id="weak", status="stopped", config={}, eval_loss=1.0, peak_memory_bytes=1),
        TrialRecord(trial_id="broken", status="failed", config={}, error="NaN"),
    ],
)  # fmt: skip


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("knee", "middle"),
        ("quality", "large"),
        ("memory", "small"),
        ("under:16GiB", "middle"),
        ("under:10GiB", "middle"),  # exactly fits
        ("under:1TiB", "large"),
        ("under:9000MiB", "small"),
        ("dominated", "dominated"),
        ("large", "large"),
    ],
)
def test_picks(how: str, expected: str) -> None:
    assert pick(FRONT, how).trial_id == expected


@pytest.mark.parametrize(
    ("how", "parts"),
    [
        ("under:4GiB", ["4.00 GiB", "nearest", "small", "8.00 GiB"]),
        ("under:lots", ["'lots'", "16GiB", "24GiB"]),
        ("under:", ["24GiB"]),
        ("best", ["'best'", "knee", "quality", "under:", "small, middle, large, dominated"]),
        ("weak", ["weak", "stopped", "completed"]),
        ("broken", ["broken", "failed"]),
    ],
)
def test_what_cannot_be_picked_says_what_can(how: str, parts: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        pick(FRONT, how)
    message = str(caught.value)
    assert "\n" not in message
    assert any(part in message for part in parts)
    missing = [part for part in parts if part not in message]
    assert missing in ([], ["16GiB"]), message


@pytest.mark.parametrize("how", ["knee", "quality", "memory", "under:16GiB"])
def test_nothing_completed(how: str) -> None:
    with pytest.raises(InputError, match="no completed trial"):
        pick(front_of(), how)


def test_every_member_can_be_picked_by_its_id(run: Run) -> None:
    for trial in run.front.trials:
        if trial.on_front:
            picked: Any = pick(run.front, trial.trial_id)
            assert picked is trial
