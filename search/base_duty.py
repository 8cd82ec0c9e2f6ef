"""Which trial evaluates the untouched model: the first one, and if that ends without having done so the next."""

from collections.abc import Callable

from trainables.settings import TrialSpec


class BaseDuty:
    """Gives the duty to one trial at a time until the loss is known.

    Args:
        is_known: whether the sweep has the untouched model's loss.
    """

    def __init__(self, is_known: Callable[[], bool]) -> None:
        self._is_known = is_known
        self._holder: str | None = None

    def assign(self, spec: TrialSpec) -> TrialSpec:
        """A trial's spec, with the duty or without it."""
        if self._holder is None and not self._is_known():
            self._holder = spec.trial_id
        return spec.model_copy(update={"evaluate_base": spec.trial_id == self._holder})

    def ended(self, trial_id: str) -> None:
        """A trial is over, however."""
        if trial_id == self._holder:
            self._holder = None
