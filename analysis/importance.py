"""How much each hyperparameter explains of each objective, by functional ANOVA."""

import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from analysis.records import TrialRecord
from analysis.text import DERIVED_KEY

ObjectiveName = Literal["eval_loss", "peak_memory_bytes"]

# Fewer than this say nothing: a tree through three points fits anything.
MIN_TRIALS = 4
# From here on the completed trials alone carry the loss importances; ASHA completes few of a small sweep.
_ENOUGH_COMPLETED = 8
# fANOVA takes more time per trial the more there are: 40 seconds of a core for 1,000, under ten for 300.
MOST_TRIALS = 300
_SEED = 0  # of fANOVA's random forest: the same records give the same figures
_ALPHA_RATIO = "alpha / rank"


@dataclass(frozen=True)
class Importance:
    """Shares of an objective's variance, largest first and adding up to one, by hyperparameter.

    ``basis`` says which trials' values were compared. ``shares`` is empty when nothing can be said, and then
    ``reason`` says why.
    """

    objective: ObjectiveName
    basis: str
    num_trials: int
    shares: dict[str, float] = field(default_factory=dict)
    reason: str | None = None


def comparable_losses(trials: Sequence[TrialRecord]) -> tuple[dict[str, float], str]:
    """Losses by trial id that come from the same amount of training, and what they are in words.

    Those of the completed trials where they are many, else those at the first rung, which stopped trials
    reached too.
    """
    lora = [trial for trial in trials if trial.kind == "lora"]
    completed = _finite({trial.trial_id: trial.eval_loss for trial in lora if trial.status == "completed"})
    if len(completed) >= _ENOUGH_COMPLETED:
        return completed, f"loss of completed trials ({_trials(len(completed))})"
    first_rungs = {trial.trial_id: trial.rungs[0] for trial in lora if trial.rungs}
    if not first_rungs:
        return {}, "no trial has reached a rung"
    examples = Counter(rung.examples_seen for rung in first_rungs.values()).most_common(1)[0][0]
    at_first = _finite(
        {key: rung.eval_loss for key, rung in first_rungs.items() if rung.examples_seen == examples}
    )
    return at_first, f"loss after {examples} examples ({_trials(len(at_first))})"


def searched_dimensions(trials: Sequence[TrialRecord]) -> dict[str, list[Any]]:
    """The hyperparameters that differ between trials, each with its values in the trials' order.

    ``alpha`` is given as alpha / rank, the scale of the adapter: alpha and rank are not independent.
    """
    configs = [_independent(trial.config) for trial in trials]
    keys = [key for key in (configs[0] if configs else {}) if all(key in config for config in configs)]
    columns = {key: [config[key] for config in configs] for key in keys}
    return {key: values for key, values in columns.items() if len(set(map(repr, values))) > 1}


def hyperparameter_importance(trials: Sequence[TrialRecord], objective: ObjectiveName) -> Importance:
    """Functional ANOVA of one objective over the searched hyperparameters.

    The method is fANOVA (Hutter, Hoos and Leyton-Brown 2014, "An efficient approach for assessing
    hyperparameter importance"). Losses are compared at the same amount of training (see `comparable_losses`),
    memory over all trials with a measured peak.
    """
    values, basis = _objective_values(trials, objective)
    used = [trial for trial in trials if trial.trial_id in values]
    if len(used) > MOST_TRIALS:
        used = random.Random(_SEED).sample(used, MOST_TRIALS)
        basis += f", a random {MOST_TRIALS} of them"
    dimensions = searched_dimensions(used)
    reason = None
    if len(used) < MIN_TRIALS:
        reason = f"needs at least {MIN_TRIALS} trials with a {_NAMES[objective]}, there are {len(used)}"
    elif not dimensions:
        reason = "no hyperparameter differs between the trials"
    elif len(set(values.values())) == 1:
        reason = f"every trial has the same {_NAMES[objective]}"
    if reason is not None:
        return Importance(objective, basis, len(used), reason=reason)
    try:
        shares = _fanova(dimensions, [values[trial.trial_id] for trial in used])
    except RuntimeError as error:  # optuna: "zero total variance in all trees"
        return Importance(objective, basis, len(used), reason=f"fANOVA found nothing: {error}")
    return Importance(objective, basis, len(used), shares)


_NAMES: dict[ObjectiveName, str] = {"eval_loss": "loss", "peak_memory_bytes": "measured peak memory"}


def _objective_values(
    trials: Sequence[TrialRecord], objective: ObjectiveName
) -> tuple[dict[str, float], str]:
    if objective == "eval_loss":
        return comparable_losses(trials)
    peaks = {
        trial.trial_id: float(trial.peak_memory_bytes)
        for trial in trials
        if trial.kind == "lora" and trial.peak_memory_bytes is not None and trial.memory_source != "predicted"
    }
    return peaks, f"measured peak memory ({_trials(len(peaks))})"


def _fanova(dimensions: Mapping[str, list[Any]], targets: Sequence[float]) -> dict[str, float]:
    """Shares by dimension, from an in-memory study that holds one finished trial per target."""
    import optuna
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    encoded = {name: _encode(values) for name, values in dimensions.items()}
    study = _quiet_study()
    for index, target in enumerate(targets):
        study.add_trial(
            optuna.trial.create_trial(
                params={name: values[index] for name, (values, _) in encoded.items()},
                distributions={name: distribution for name, (_, distribution) in encoded.items()},
                value=target,
            )
        )
    shares = get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=_SEED))
    return {name: float(share) for name, share in sorted(shares.items(), key=lambda item: -item[1])}


def _quiet_study() -> Any:
    """An empty in-memory study, made without Optuna's line on stderr."""
    import optuna

    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        return optuna.create_study()
    finally:
        optuna.logging.set_verbosity(verbosity)


def _encode(values: list[Any]) -> tuple[list[Any], Any]:
    """The values and their Optuna distribution: numbers on their logarithm where it exists, else choices.

    fANOVA averages evenly over a dimension's range, and learning rates or ranks are searched on a log scale.
    """
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        numbers = [math.log2(value) if min(values) > 0 else float(value) for value in values]
        return numbers, FloatDistribution(min(numbers), max(numbers))
    names = [str(value) for value in values]
    return names, CategoricalDistribution(sorted(set(names)))


def _independent(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config without what follows from other settings, and with alpha / rank in the place of alpha."""
    settings = {key: value for key, value in config.items() if key != DERIVED_KEY}
    if not {"rank", "alpha"} <= set(settings):
        return settings
    ratio = settings["alpha"] / settings["rank"]
    return {
        (_ALPHA_RATIO if key == "alpha" else key): ratio if key == "alpha" else value
        for key, value in settings.items()
    }


def _trials(count: int) -> str:
    return "1 trial" if count == 1 else f"{count} trials"


def _finite(losses: Mapping[str, float | None]) -> dict[str, float]:
    return {key: loss for key, loss in losses.items() if loss is not None and math.isfinite(loss)}
