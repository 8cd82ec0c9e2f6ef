"""A Ray Tune searcher around another one, for what decides whether that one is asked."""

from typing import Any

from ray.tune.search import Searcher

from search.stateless_searcher import StatelessSearcher


class WrappedSearcher(StatelessSearcher):
    """Passes results on; what comes between Ray Tune and the searcher inside overrides `suggest`."""

    def __init__(self, searcher: Searcher) -> None:
        super().__init__()
        self._searcher = searcher

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Passed on."""
        self._searcher.on_trial_result(trial_id, result)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Passed on."""
        self._searcher.on_trial_complete(trial_id, result, error)
