"""Schedulers by name: Pareto-aware ASHA, Ray Tune's ASHA on the loss alone, and none (`fifo`)."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler

from search.pareto_asha import ParetoAsha, PastReport
from search.rung import Report


def is_baseline(trial: Any) -> bool:
    """Whether a Tune trial is the full fine-tuning baseline, which no scheduler may stop."""
    return bool(trial.config["spec"]["kind"] == "full")


class AshaOnExamples(ASHAScheduler):
    """ASHA (arXiv 1810.05934) as Ray Tune implements it, at exactly the given rungs.

    A trial goes on from a rung if its loss is within the best 1 / ``reduction_factor`` of those seen there so far.
    The last rung is the full resource, where nothing is left to decide.

    Args:
        rungs: numbers of examples, ascending.
        reduction_factor: eta in the paper.
        replay: results of an earlier launch, ``(trial id, examples, loss)`` in their order, that rungs remember.
    """

    def __init__(
        self, rungs: Sequence[int], reduction_factor: int, replay: Sequence[tuple[str, int, float]] = ()
    ) -> None:
        super().__init__(
            time_attr="examples_seen",
            metric="eval_loss",
            mode="min",
            max_t=rungs[-1],
            grace_period=rungs[0],
            reduction_factor=reduction_factor,
        )
        # Ray derives rungs from a floating-point logarithm; ours are given, highest first as Ray keeps them.
        recorded: dict[int, dict[str, float]] = {rung: {} for rung in reversed(rungs[:-1])}
        for trial_id, examples, loss in replay:
            if examples in recorded:
                recorded[examples][f"earlier {trial_id}"] = -loss
        self._brackets[0]._rungs = list(recorded.items())

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Take a new trial into the bracket, but for the baseline."""
        if not is_baseline(trial):
            super().on_trial_add(tune_controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: Mapping[str, Any]) -> str:
        """Continue or stop; the baseline always continues."""
        if is_baseline(trial):
            return str(TrialScheduler.CONTINUE)
        return str(super().on_trial_result(tune_controller, trial, dict(result)))

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: Mapping[str, Any]) -> None:
        """Forget a finished trial (its losses stay at the rungs)."""
        self._trial_info.pop(trial.trial_id, None)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        """Forget a trial that was taken out."""
        self._trial_info.pop(trial.trial_id, None)


def make_scheduler(
    name: str,
    rungs: Sequence[int],
    reduction_factor: int,
    past: Sequence[PastReport] = (),
    workers: int | Callable[[], int] = 1,
    base: Report | None = None,
) -> TrialScheduler:
    """The scheduler of that name; a single rung leaves nothing to stop at."""
    if name == "fifo" or len(rungs) == 1:
        return FIFOScheduler()
    if name == "pareto-asha":
        return ParetoAsha(rungs, reduction_factor, workers=workers, past=past, base=base, exempt=is_baseline)
    replay = [(report.trial_id, report.examples, report.report.loss) for report in past]
    return AshaOnExamples(rungs, reduction_factor, replay)
