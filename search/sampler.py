"""Optuna behind Ray Tune's Searcher: one multi-objective study per sweep, kept in the run folder.

What the study learns: a completed trial's two objectives; that a stopped trial was pruned, without any value,
because its loss comes from less training; that a failed or infeasible trial failed.
"""

from collections.abc import Callable, Sequence
from typing import Any

from pydantic import ValidationError
from ray.tune.search import Searcher

from search.config import SweepConfig
from search.space import SearchSpace
from trainables.settings import TrialConfig, TrialSpec

OBJECTIVES = ("eval_loss", "peak_memory_bytes")
# How often a sampler may repeat itself before its space counts as used up. With 60 draws an unseen config that makes
# up a tenth of the remaining probability is missed with a chance of 0.9^60 = 0.2 %.
MAX_DRAWS = 60


def open_study(config: SweepConfig, storage_path: str) -> Any:
    """The sweep's study: created, or the one that an earlier launch left in the run folder."""
    import warnings

    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    samplers: dict[str, Callable[[], Any]] = {
        # Multivariate, because rank, alpha and learning rate act together; constant_liar keeps parallel workers
        # from asking for the same point (Optuna's TPESampler documentation).
        "tpe": lambda: optuna.samplers.TPESampler(
            seed=config.seed,
            multivariate=True,
            constant_liar=True,
            n_startup_trials=max(4, min(10, config.trials // 2)),
        ),
        "random": lambda: optuna.samplers.RandomSampler(seed=config.seed),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # multivariate is marked experimental since 2020
        sampler = samplers[config.sampler]()
    return optuna.create_study(
        study_name=config.name,
        storage=f"sqlite:///{storage_path}",
        sampler=sampler,
        directions=["minimize"] * len(OBJECTIVES),
        load_if_exists=True,
    )


def forget_unfinished(study: Any) -> None:
    """Mark trials that a killed driver left RUNNING as failed: they are resumed outside the study."""
    import optuna

    for trial in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)


class OptunaSearcher(Searcher):
    """Hands out trial specs: first those given (baseline, resumed trials), then points that Optuna samples.

    Args:
        study: from `open_study`.
        space: the search space.
        make_spec: a trial's spec from its number and config.
        first: specs to run before anything is sampled.
        budget: how many configs to sample.
        seen: configs that already ran, which are not run again.
        next_number: number of the next new trial.
        admit: records a config that must not be launched (over the memory budget) and says so by False.
    """

    def __init__(
        self,
        study: Any,
        space: SearchSpace,
        make_spec: Callable[[int, TrialConfig], TrialSpec],
        *,
        first: Sequence[TrialSpec] = (),
        budget: int,
        seen: Sequence[TrialConfig] = (),
        next_number: int = 1,
        admit: Callable[[TrialSpec], bool] = lambda spec: True,
    ) -> None:
        super().__init__(metric=None, mode=None)
        self._study, self._space, self._make_spec, self._admit = study, space, make_spec, admit
        self._first, self._budget, self._next = list(first), budget, next_number
        self._seen = set(map(_key, seen))
        self._asked: dict[str, Any] = {}
        self.used_up = False

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its set-up for a restore of its own, which lorafront does not use."""
        return {}

    def __deepcopy__(self, memo: Any) -> "OptunaSearcher":
        return self

    def suggest(self, trial_id: str) -> Any:
        """The next trial's config, or FINISHED when the budget or the space is used up."""
        if self._first:
            return {"spec": self._first.pop(0).model_dump(mode="json")}
        if self._budget <= 0 or self.used_up:
            return Searcher.FINISHED
        drawn = self._draw()
        if drawn is None:
            self.used_up = True
            return Searcher.FINISHED
        asked, spec = drawn
        self._asked[trial_id] = asked
        self._budget -= 1
        return {"spec": spec.model_dump(mode="json")}

    def _draw(self) -> tuple[Any, TrialSpec] | None:
        """A config that is new, valid and within the memory budget; None when none turns up."""
        for _ in range(MAX_DRAWS):
            asked = self._study.ask()
            try:
                config = self._space.to_config(self._space.suggest(asked))
            except ValidationError:
                self._tell(asked, None)
                continue
            if _key(config) in self._seen:
                self._tell(asked, None)
                if len(self._seen) >= self._space.size():
                    return None
                continue
            self._seen.add(_key(config))
            spec = self._make_spec(self._next, config)
            self._next += 1
            asked.set_user_attr("trial_id", spec.trial_id)
            if self._admit(spec):
                return asked, spec
            self._tell(asked, None)
        return None

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Tell the study how a trial ended."""
        asked = self._asked.pop(trial_id, None)
        if asked is not None:
            self._tell(asked, None if error else result)

    def _tell(self, asked: Any, result: dict[str, Any] | None) -> None:
        from optuna.trial import TrialState

        if result is None or "eval_loss" not in result:
            self._study.tell(asked, state=TrialState.FAIL)
        elif result.get("finished"):
            self._study.tell(asked, [float(result[name]) for name in OBJECTIVES])
        else:
            self._study.tell(asked, state=TrialState.PRUNED)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the study lies in its database and the rest follows from trials.jsonl."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing, see `save`."""


def _key(config: TrialConfig) -> str:
    return config.model_dump_json()
