"""The part that all searchers here share: Ray Tune saves and restores nothing of them."""

from typing import Any, Self

from ray.tune.search import Searcher


class StatelessSearcher(Searcher):
    """A searcher whose state follows from the study and from trials.jsonl, so that Ray Tune's own saving is not needed.

    Tune copies and pickles what it is given, for a restore of its own that lorafront does not use.
    """

    def __init__(self) -> None:
        super().__init__(metric=None, mode=None)

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __deepcopy__(self, memo: Any) -> Self:
        return self

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Nothing to learn, unless a searcher says so."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore."""
