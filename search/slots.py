"""Sampling only when a worker is free for the new trial: paused trials hold none, and promotions come first."""

from collections.abc import Callable
from typing import Any

from ray.tune.search import Searcher

from search.pareto_asha import ParetoAsha
from search.wrapped_searcher import WrappedSearcher
from trainables.settings import TrialSpec


class SlotSearcher(WrappedSearcher):
    """Stands between Ray Tune and a searcher, in place of Tune's own limit, which would count paused trials as running.

    Args:
        searcher: that samples.
        scheduler: that pauses and promotes.
        revived_spec: the spec with which a trial of an earlier launch goes on from its checkpoint.
    """

    def __init__(
        self, searcher: Searcher, scheduler: ParetoAsha, revived_spec: Callable[[str], TrialSpec]
    ) -> None:
        super().__init__(searcher)
        self._scheduler, self._revived_spec = scheduler, revived_spec
        self._exhausted = False
        self._last_results: dict[str, dict[str, Any]] = {}

    def suggest(self, trial_id: str) -> Any:
        """A config; None while no worker is free; FINISHED when no trial can come or go on any more."""
        scheduler = self._scheduler
        if not scheduler.has_room or scheduler.wants_promotion():
            return None
        revived = scheduler.revive()
        if revived is not None:
            return {"spec": self._revived_spec(revived).model_dump(mode="json")}
        if not self._exhausted:
            suggested = self._searcher.suggest(trial_id)
            if suggested != Searcher.FINISHED:
                return suggested
            self._exhausted = True
            scheduler.expect_no_more()
            return None
        return Searcher.FINISHED if scheduler.is_idle else None

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Passed on, and kept: a trial that ends while it is paused has no other result to end with."""
        self._last_results[trial_id] = result
        self._searcher.on_trial_result(trial_id, result)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Passed on, with the trial's last result if Tune names none."""
        last_result = self._last_results.pop(trial_id, None)
        self._searcher.on_trial_complete(trial_id, result or last_result, error)


class LimitedSearcher(WrappedSearcher):
    """Asks the searcher inside only while fewer trials are going than ``workers`` tells, which may change meanwhile.

    In place of Tune's own limit, which is fixed for a whole sweep.
    """

    def __init__(self, searcher: Searcher, workers: Callable[[], int]) -> None:
        super().__init__(searcher)
        self._workers = workers
        self._going: set[str] = set()

    def suggest(self, trial_id: str) -> Any:
        """A config, None while there is no room, or FINISHED."""
        if len(self._going) >= self._workers():
            return None
        suggested = self._searcher.suggest(trial_id)
        if isinstance(suggested, dict):
            self._going.add(trial_id)
        return suggested

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Passed on; there is room again."""
        self._going.discard(trial_id)
        self._searcher.on_trial_complete(trial_id, result, error)
