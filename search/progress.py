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
        self._trials[trial.trial_id] = trial
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
        self._trials[event.trial.trial_id] = event.trial
        if self._live is None and event.event == "ended":
            self._console.print(self._line(event.trial), highlight=False, markup=False, soft_wrap=True)

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
        ended = [trial for trial in self._trials.values() if trial.status != "running"]
        return sum(not kinds or trial.kind in kinds for trial in ended)

    def _total(self) -> int:
        """How many trials there will be: those planned, or if the search is over those that it ended with."""
        searched = self._ended("lora", "full") if self._searched else self._planned
        return searched + self._replicates

    def _left(self) -> str:
        """Time left, from the examples seen against those that are still to be expected; rough by nature."""
        elapsed = time.monotonic() - self._started
        seen = sum(t.examples_seen for t in self._trials.values()) - self._seen_before
        if seen <= 0:
            return "time left unknown yet"
        # An ended trial needs nothing more; others, on average, what halving leaves of the full resource.
        open_replicates = self._replicates - self._ended("replicate")
        open_trials = self._total() - self._ended() - open_replicates
        in_work = sum(t.examples_seen for t in self._trials.values() if t.status == "running")
        expected = max(0.0, open_trials * self._mean_examples + open_replicates * self._full - in_work)
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
        for trial in trials:
            if trial.status == "running":
                loss = "" if trial.eval_loss is None else f"{trial.eval_loss:.3f}"
                table.add_row(trial.trial_id, f"{trial.examples_seen}/{self._full}", loss, describe(trial))
        return table


def describe(trial: TrialRecord) -> str:
    """A trial's settings in a few words."""
    config = trial.config
    memory = "" if trial.peak_memory_bytes is None else f", {format_memory(trial.peak_memory_bytes)}"
    rate = f"lr {config['learning_rate']:.2g}, batch {config['batch_size']}{memory}"
    if trial.kind == "full":
        return f"full fine-tuning, {rate}"
    return f"rank {config['rank']}, alpha {config['alpha']:.3g}, {config['targets']}, {rate}"
