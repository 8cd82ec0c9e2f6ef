"""A Ray Tune searcher around another one, for what decides whether that one is asked."""

from typing import Any, Self

from ray.tune.search import Searcher


class WrappedSearcher(Searcher):
    """Passes results on; what comes between Ray Tune and the searcher inside overrides `suggest`."""

    def __init__(self, searcher: Searcher) -> None:
        super().__init__(metric=None, mode=None)
        self._searcher = searcher

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its set-up for a restore of its own, which lorafront does not use."""
        return {}

    def __deepcopy__(self, memo: Any) -> Self:
        return self

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Passed on."""
        self._searcher.on_trial_result(trial_id, result)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Passed on."""
        self._searcher.on_trial_complete(trial_id, result, error)

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore."""
