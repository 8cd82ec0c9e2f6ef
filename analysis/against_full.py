"""A trial's figures against full fine-tuning: how much of its gain, at which share of its memory, how much faster."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from analysis.confirmation import losses_by_seed
from analysis.intervals import mean_interval, ratio_interval
from analysis.records import Base, Baseline, Headline, TrialRecord


def headline_for(
    trial: TrialRecord,
    base: Base | None,
    baseline: Baseline | None,
    *,
    predicted_full_memory_bytes: int | None = None,
    replicates: Sequence[TrialRecord] = (),
) -> Headline | None:
    """One trial against full fine-tuning; None where there is nothing to compare.

    Without a baseline only the memory is compared, with its prediction.
    """
    if trial.peak_memory_bytes is None or trial.eval_loss is None or not math.isfinite(trial.eval_loss):
        return None
    if baseline is None:
        if not predicted_full_memory_bytes:
            return None
        return Headline(
            retention=None,
            memory_ratio=trial.peak_memory_bytes / predicted_full_memory_bytes,
            speedup=None,
            trial_id=trial.trial_id,
            memory_source="predicted",
        )
    if baseline.peak_memory_bytes <= 0 or baseline.tokens_per_second <= 0 or not trial.tokens_per_second:
        return None
    headline = Headline(
        retention=_retention(trial.eval_loss, base, baseline),
        memory_ratio=trial.peak_memory_bytes / baseline.peak_memory_bytes,
        speedup=trial.tokens_per_second / baseline.tokens_per_second,
        trial_id=trial.trial_id,
    )
    if trial.confirmation is not None:
        speeds = [trial.tokens_per_second, *trial.confirmation.tokens_per_second]
        headline.speedup_interval = ratio_interval(speeds, baseline.tokens_per_second)
        _add_test_retention(headline, base, baseline, losses_by_seed(trial.trial_id, replicates))
    return headline


def _retention(eval_loss: float, base: Base | None, baseline: Baseline) -> float | None:
    if base is None or baseline.eval_loss >= base.eval_loss:
        return None
    return (base.eval_loss - eval_loss) / (base.eval_loss - baseline.eval_loss)


def _add_test_retention(
    headline: Headline, base: Base | None, baseline: Baseline, losses: Mapping[int, Sequence[float]]
) -> None:
    """What the replicates say of the retention, on the test split.

    Retention is a ratio of means; its interval is that of its linear form around the estimate, example by example
    (Cochran, Sampling Techniques, on ratio estimators). The base has no seed and full fine-tuning was run with one, so
    the interval holds for this run of it.
    """
    untouched = base.test_example_losses if base is not None else None
    if untouched is None or baseline.test_example_losses is None or not losses:
        return
    own = np.array([losses[seed] for seed in sorted(losses)])
    gain, possible = untouched - own, np.subtract(untouched, baseline.test_example_losses)
    if possible.mean() <= 0:
        return
    retention = float(gain.mean() / possible.mean())
    _, interval = mean_interval(retention + (gain - retention * possible) / possible.mean())
    headline.test_retention, headline.test_retention_interval = retention, interval
