"""When more trials are no longer worth their time: the front's hypervolume has stopped growing."""

from collections.abc import Callable
from typing import Any

from ray.tune.search import Searcher

from analysis.records import Event, Front
from search.config import StagnationSettings
from search.wrapped_searcher import WrappedSearcher


class Stagnation:
    """Listens to the journal: says stop once the hypervolume grew by no more than a share over the last trials.

    A trial counts when it ends, however it ends; one that is promoted and ends again counts once. Nothing is said
    before the front exists, since until then the hypervolume is zero.

    Args:
        settings: over how many trials, and which relative growth is too little.
        front: gives the front as of now.
    """

    def __init__(self, settings: StagnationSettings, front: Callable[[], Front]) -> None:
        self._settings, self._front = settings, front
        self._ended: set[str] = set()
        self._history: list[float] = []

    def listen(self, event: Event) -> None:
        """Take note of a trial's end."""
        if self._settings.trials is None:
            return
        if event.event != "ended" or event.trial is None or event.trial.kind != "lora":
            return
        hypervolume = self._front().hypervolume
        if event.trial.trial_id in self._ended:
            self._history[-1] = hypervolume
        else:
            self._ended.add(event.trial.trial_id)
            self._history.append(hypervolume)

    def describe(self) -> str:
        """The rule in words."""
        settings = self._settings
        return f"the last {settings.trials} trials raised the hypervolume by {settings.growth:.1%} or less"

    @property
    def has_come(self) -> bool:
        """Whether to stop."""
        trials = self._settings.trials
        if trials is None or len(self._history) <= trials:
            return False
        before, now = self._history[-1 - trials], self._history[-1]
        return before > 0 and now <= before * (1 + self._settings.growth)


class UntilStagnation(WrappedSearcher):
    """Samples as the searcher inside does until nothing is to be gained; running trials are left to finish."""

    def __init__(self, searcher: Searcher, stagnation: Stagnation) -> None:
        super().__init__(searcher)
        self._stagnation = stagnation

    def suggest(self, trial_id: str) -> Any:
        """The next config, or FINISHED."""
        return Searcher.FINISHED if self._stagnation.has_come else self._searcher.suggest(trial_id)
