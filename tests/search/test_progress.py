"""What the terminal shows of a sweep."""

import io
from typing import Any

from rich.console import Console

from analysis.records import Event, TrialRecord
from search.progress import MOST_ROWS, Progress

CONFIG = {"rank": 8, "alpha": 16.0, "targets": "mlp", "learning_rate": 1e-3, "batch_size": 4}


def trial(number: int, status: str = "running", examples: int = 0, kind: str = "lora") -> TrialRecord:
    figures: dict[str, Any] = {"status": status, "examples_seen": examples, "kind": kind}
    loss = 3.0 if examples else None
    return TrialRecord(trial_id=f"t{number:04d}", config=CONFIG, eval_loss=loss, **figures)


def event(name: Any, record: TrialRecord) -> Event:
    return Event(event=name, time="", trial=record)


def progress_of(console: Console, planned: int = 4) -> Progress:
    return Progress(console, total_trials=planned, rungs=(16, 48, 144), eta=3)


def test_a_line_for_every_trial_that_ends_counts_each_once() -> None:
    console = Console(file=io.StringIO(), width=200)
    progress = progress_of(console)
    progress.remember(trial(1, "completed", 144))
    progress.listen(event("started", trial(2)))
    progress.listen(event("ended", trial(2, "stopped", 16)))
    progress.listen(event("started", trial(2, "running", 16)))  # promoted
    progress.listen(event("ended", trial(2, "completed", 144)))
    progress.listen(event("ended", trial(3, "failed")))
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert [line.split(" (")[0].split(",")[0] for line in lines] == [
        "[2/4] t0002 stopped loss 3.000 after 16 examples",
        "[2/4] t0002 completed loss 3.000 after 144 examples",
        "[3/4] t0003 failed",
    ]


def test_nothing_is_left_once_all_have_ended() -> None:
    console = Console(file=io.StringIO(), width=200)
    progress = progress_of(console, planned=1)
    progress.listen(event("result", trial(1, examples=16)))
    progress.listen(event("ended", trial(1, "completed", 144)))
    assert "(about 0s left)" in console.file.getvalue()  # type: ignore[attr-defined]


def test_a_thousand_running_trials_do_not_fill_the_terminal() -> None:
    console = Console(file=io.StringIO(), width=120)
    progress = progress_of(console, planned=1000)
    for number in range(1000):
        progress.listen(event("started", trial(number)))
    console.print(progress._view())
    shown = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert sum(line.strip().startswith("t0") for line in shown) == MOST_ROWS
    assert f"and {1000 - MOST_ROWS} more" in shown[-1]
