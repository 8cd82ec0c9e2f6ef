"""What replicates with new seeds say of a front's members: test loss, interval, and who beats whom."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from analysis.intervals import mean_interval
from analysis.records import Confirmation, TrialRecord


def confirm_all(trials: Sequence[TrialRecord], replicates: Sequence[TrialRecord]) -> None:
    """Give every trial that was trained again its `Confirmation` and its test loss, and mark the front's members."""
    for trial in trials:
        trial.confirmation = _confirmation(trial.trial_id, replicates)
        if trial.confirmation is not None:
            trial.test_loss = trial.confirmation.test_loss
            trial.test_loss_stderr = None
    _mark([trial for trial in trials if trial.on_front and trial.confirmation], replicates)


def losses_by_seed(trial_id: str, replicates: Sequence[TrialRecord]) -> dict[int, list[float]]:
    """The test examples' parts of the loss by seed, of a trial's completed replicates."""
    done = [each for each in replicates if each.replicate_of == trial_id and each.status == "completed"]
    return {each.seed: each.test_example_losses for each in done if each.test_example_losses}


def _confirmation(trial_id: str, replicates: Sequence[TrialRecord]) -> Confirmation | None:
    losses = losses_by_seed(trial_id, replicates)
    if not losses:
        return None
    own = [each for each in replicates if each.replicate_of == trial_id]
    mean, interval = mean_interval(list(losses.values()))
    return Confirmation(
        seeds=list(losses),
        test_loss=mean,
        test_interval=interval,
        test_losses=[float(np.mean(each)) for each in losses.values()],
        tokens_per_second=[r.tokens_per_second for r in own if r.seed in losses and r.tokens_per_second],
        failed_seeds=[each.seed for each in own if each.status in ("failed", "infeasible")],
    )


def _mark(members: Sequence[TrialRecord], replicates: Sequence[TrialRecord]) -> None:
    """Compare every member with those that need no more memory, seed by seed and example by example."""
    losses = {trial.trial_id: losses_by_seed(trial.trial_id, replicates) for trial in members}
    for trial in members:
        for other in members:
            if other is trial or (other.peak_memory_bytes or 0) > (trial.peak_memory_bytes or 0):
                continue
            difference = _differences(losses[trial.trial_id], losses[other.trial_id])
            _, interval = mean_interval(difference) if difference.size else (0.0, None)
            if interval is None or trial.confirmation is None:
                continue
            if interval[0] > 0:
                trial.confirmation.beaten_by.append(other.trial_id)
            elif interval[1] >= 0:
                trial.confirmation.not_better_than.append(other.trial_id)


def _differences(one: dict[int, list[float]], other: dict[int, list[float]]) -> NDArray[np.float64]:
    """``[seed, example]``: by how much the first loss is larger, for the seeds that both have."""
    seeds = sorted(one.keys() & other.keys())
    return np.array([one[seed] for seed in seeds]) - np.array([other[seed] for seed in seeds])
