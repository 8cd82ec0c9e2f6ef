"""What the terminal shows while a sweep runs: trials running, done and stopped, the best so far, the time left."""

import time
from collections import Counter
from itertools import pairwise
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from analysis.records import Event, TrialRecord
from search.units import format_duration, format_memory

MOST_ROWS = 40  # of running trials: what a tall terminal shows; a thousand took the drawing half of the time


class Progress:
    """Listens to the journal. On a terminal a live view; otherwise one line per trial that ends."""

    def __init__(self, console: Console, *, total_trials: int, rungs: tuple[int, ...], eta: int) -> None:
        """``eta``: one in so many trials goes on from a rung (1: all of them do)."""
        self._console, self._planned, self._full = console, total_trials, rungs[-1]
        pieces = (rung - before for before, rung in pairwise((0, *rungs)))
        self._mean_examples = sum(piece / eta**rung for rung, piece in enumerate(pieces))
        self._replicates = 0
        self._searched = False
        self._seen_before = 0
        self._trials: dict[str, TrialRecord] = {}
        # Kept up with every event, so that a line about one of ten thousand trials looks at that one.
        self._ended_by_kind: Counter[str] = Counter()
        self._examples = self._examples_in_work = 0
        self._started = time.monotonic()
        self._live: Live | None = None

    def __enter__(self) -> "Progress":
        if self._console.is_terminal:
            self._live = Live(get_renderable=self._view, console=self._console, refresh_per_second=2)
            self._live.__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        if self._live is not None:
            self._live.__exit__(*exception)

    def remember(self, trial: TrialRecord) -> None:
        """A trial of an earlier launch; those taken over from another sweep are not counted."""
        if trial.adopted_from:
            return
        self._note(trial)
        self._replicates += trial.kind == "replicate"
        self._seen_before += trial.examples_seen

    def listen(self, event: Event) -> None:
        """Take note of an event."""
        if event.sweep is not None and "replicates" in event.sweep:
            self._searched = True
            self._replicates += event.sweep["replicates"]
        if event.sweep is not None and "search_ended" in event.sweep:
            why = event.sweep["search_ended"]
            self._console.print(f"the search ends here: {why}", highlight=False, soft_wrap=True)
        if event.trial is None or event.trial.adopted_from:
            return
        self._note(event.trial)
        if self._live is None and event.event == "ended":
            self._console.print(self._line(event.trial), highlight=False, markup=False, soft_wrap=True)

    def _note(self, trial: TrialRecord) -> None:
        self._count(self._trials.get(trial.trial_id), -1)
        self._trials[trial.trial_id] = trial
        self._count(trial, 1)

    def _count(self, trial: TrialRecord | None, sign: int) -> None:
        if trial is None:
            return
        self._examples += sign * trial.examples_seen
        if trial.status == "running":
            self._examples_in_work += sign * trial.examples_seen
        else:
            self._ended_by_kind[trial.kind] += sign

    def _line(self, trial: TrialRecord) -> str:
        loss = (
            ""
            if trial.eval_loss is None
            else f" loss {trial.eval_loss:.3f} after {trial.examples_seen} examples"
        )
        why = f": {trial.error}" if trial.error else ""
        done = f"[{self._ended()}/{self._total()}] {trial.trial_id} {trial.status}"
        return f"{done}{loss}, {describe(trial)}{why} ({self._left()})"

    def _ended(self, *kinds: str) -> int:
        """How many trials have ended, of these kinds or of all."""
        return sum(self._ended_by_kind[kind] for kind in kinds or self._ended_by_kind)

    def _total(self) -> int:
        """How many trials there will be: those planned, or if the search is over those that it ended with."""
        searched = self._ended("lora", "full") if self._searched else self._planned
        return searched + self._replicates

    def _left(self) -> str:
        """Time left, from the examples seen against those that are still to be expected; rough by nature."""
        elapsed = time.monotonic() - self._started
        seen = self._examples - self._seen_before
        if seen <= 0:
            return "time left unknown yet"
        # An ended trial needs nothing more; others, on average, what halving leaves of the full resource.
        open_replicates = self._replicates - self._ended("replicate")
        open_trials = self._total() - self._ended() - open_replicates
        expected = open_trials * self._mean_examples + open_replicates * self._full - self._examples_in_work
        expected = max(0.0, expected)
        return f"about {format_duration(elapsed / seen * expected)} left"

    def _view(self) -> Group:
        trials = list(self._trials.values())
        counts = Counter(trial.status for trial in trials)
        words = [
            f"{counts[s]} {s}"
            for s in ("running", "completed", "stopped", "infeasible", "failed")
            if counts[s]
        ]
        head = Text(
            f"{self._ended()} of {self._total()} trials done: {', '.join(words) or 'starting'}", style="bold"
        )
        done = [t for t in trials if t.status == "completed" and t.kind == "lora" and t.eval_loss is not None]
        best = min(done, key=lambda t: t.eval_loss or 0.0, default=None)
        best_line = (
            "best so far: none yet"
            if best is None
            else (f"best so far: {best.trial_id}, loss {best.eval_loss:.3f}, {describe(best)}")
        )
        elapsed = format_duration(time.monotonic() - self._started)
        return Group(
            head, Text(best_line), Text(f"{elapsed} gone, {self._left()}", style="dim"), self._running(trials)
        )

    def _running(self, trials: list[TrialRecord]) -> Table:
        table = Table(box=None, pad_edge=False, header_style="dim")
        for column in ("running", "examples", "loss", "settings"):
            table.add_column(column)
        running = [trial for trial in trials if trial.status == "running"]
        for trial in running[:MOST_ROWS]:
            loss = "" if trial.eval_loss is None else f"{trial.eval_loss:.3f}"
            table.add_row(trial.trial_id, f"{trial.examples_seen}/{self._full}", loss, describe(trial))
        if len(running) > MOST_ROWS:
            table.add_row(f"and {len(running) - MOST_ROWS} more")
        return table


def describe(trial: TrialRecord) -> str:
    """A trial's settings in a few words."""
    config = trial.config
    memory = "" if trial.peak_memory_bytes is None else f", {format_memory(trial.peak_memory_bytes)}"
    rate = f"lr {config['learning_rate']:.2g}, batch {config['batch_size']}{memory}"
    if trial.kind == "full":
        return f"full fine-tuning, {rate}"
    return f"rank {config['rank']}, alpha {config['alpha']:.3g}, {config['targets']}, {rate}"
