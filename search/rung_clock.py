"""How long a trial may take to its next rung, from the time of its peers."""

import time
from bisect import insort
from collections.abc import Callable, Sequence
from itertools import pairwise

# Configs differ in speed: batch size and adapter by a factor of 4 in the recorded curves of the embedded default, full
# fine-tuning by 2; the rest is for evaluation, a busy machine, and the first step's compilation.
PATIENCE = 10.0
# Never less than that: a rung of seconds is held up by a model that has to be loaded, a full page cache, a slow disk.
LEAST_SECONDS = 300.0


class RungClock:
    """Times trials from rung to rung.

    Args:
        rungs: numbers of examples, ascending.
        timeout_seconds: what a rung may take; None: `PATIENCE` times the median time per example of the rungs that were
            reached, and nothing is overdue before the first was.
        now: a clock, in seconds.
    """

    def __init__(
        self, rungs: Sequence[int], timeout_seconds: float | None, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._pieces = {rung: rung - before for before, rung in pairwise((0, *rungs))}
        self._timeout_seconds, self._now = timeout_seconds, now
        self._since: dict[str, tuple[float, int]] = {}  # start or last rung, and examples to the next one
        self._seconds_per_example: list[float] = []  # ascending: the median is asked for at every turn

    def start(self, trial_id: str) -> None:
        """A trial begins, or goes on from a rung: to be safe, the longest piece lies before it."""
        self._since[trial_id] = self._now(), max(self._pieces.values())

    def reach(self, trial_id: str, examples: int) -> None:
        """A trial reached the rung at so many examples."""
        piece = self._pieces.get(examples)
        if piece is None:
            return
        began, _ = self._since.get(trial_id, (None, 0))
        if began is not None:
            insort(self._seconds_per_example, (self._now() - began) / piece)
        later = [size for rung, size in self._pieces.items() if rung > examples]
        self._since[trial_id] = self._now(), later[0] if later else piece

    def stop(self, trial_id: str) -> None:
        """A trial has ended or is paused."""
        self._since.pop(trial_id, None)

    def limit_seconds(self, trial_id: str) -> float | None:
        """What a trial may take to its next rung; None if that is not known yet, or it does not run."""
        if trial_id not in self._since:
            return None
        if self._timeout_seconds is not None or not self._seconds_per_example:
            return self._timeout_seconds
        return max(LEAST_SECONDS, PATIENCE * self._typical_seconds() * self._since[trial_id][1])

    def _typical_seconds(self) -> float:
        """The median time per example; of a thousand trials under way each one asks."""
        known = self._seconds_per_example
        return (known[(len(known) - 1) // 2] + known[len(known) // 2]) / 2

    def overdue_seconds(self, trial_id: str) -> float | None:
        """How long a trial has been on its way, if that is longer than it may be."""
        limit = self.limit_seconds(trial_id)
        if limit is None:
            return None
        taken = self._now() - self._since[trial_id][0]
        return taken if taken > limit else None
