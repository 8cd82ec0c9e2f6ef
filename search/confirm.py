"""After the search: the front's members are trained again with new seeds and evaluated on the test split."""

from collections.abc import Callable, Sequence
from typing import Any

from ray import tune
from ray.tune.search import Searcher

from analysis.front import front_members
from search.history import checkpoint_of, trial_config
from search.journal import Journal
from search.pareto_asha import trial_name
from search.plan import SweepPlan
from search.slots import LimitedSearcher
from search.stateless_searcher import StatelessSearcher
from trainables.settings import TrialSpec


def replicate_specs(plan: SweepPlan, journal: Journal) -> list[TrialSpec]:
    """The replicates that are still to be run, seed by seed, those that were interrupted from their checkpoints.

    All members get the same seeds, so the same order of examples: they can then be compared seed by seed.
    """
    members = front_members(journal.front(finished=False))
    specs = []
    for seed in range(plan.config.seed + 1, plan.config.seed + 1 + plan.config.confirm):
        for trial in members:
            trial_id = f"{trial.trial_id}-seed{seed}"
            known = journal.trials.get(trial_id)
            if known is not None and known.status != "running":
                continue
            spec = plan.spec(
                trial_id,
                trial_config(trial),
                seed=seed,
                evaluate_test=True,
                replicate_of=trial.trial_id,
                resume_from=checkpoint_of(known, journal.paths) if known else None,
            )
            specs.append(spec)
    return specs


def confirm_config(specs: Sequence[TrialSpec], workers: Callable[[], int]) -> tune.TuneConfig:
    """What a `Tuner` needs to run the replicates, as many at once as ``workers`` tells; nothing stops them."""
    return tune.TuneConfig(
        search_alg=LimitedSearcher(GivenTrials(specs), workers),
        num_samples=len(specs),
        reuse_actors=True,
        trial_name_creator=trial_name,
        trial_dirname_creator=trial_name,
    )


class GivenTrials(StatelessSearcher):
    """Hands out given trials, one after another."""

    def __init__(self, specs: Sequence[TrialSpec]) -> None:
        super().__init__()
        self._specs = list(specs)

    def suggest(self, trial_id: str) -> Any:
        """The next trial's config, or FINISHED."""
        return {"spec": self._specs.pop(0).model_dump(mode="json")} if self._specs else Searcher.FINISHED
