"""The sweep's Optuna study: opened, and one trial's entry in it.

The study records what happened: a trial's losses at its rungs and its memory as attributes; how it ended as its state:
COMPLETE with both objectives at the full resource, PRUNED when it was stopped, PRUNED with the constraint
``memory_budget`` (the share over budget) when it is infeasible, FAIL when it failed or repeated another. What the
sampler makes of a stopped trial is up to a strategy, see `search.fidelity`.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Self

from analysis.records import TrialRecord
from search.config import SweepConfig
from search.fidelity import DEFAULT_STRATEGY, EXCESS, MEMORY, RUNGS, STRATEGIES, TRIAL_ID, Observation
from search.space import SearchSpace

OBJECTIVES = ("eval_loss", "peak_memory_bytes")
SMALLEST_EXCESS = 1e-6  # a refused config is over the budget, whatever rounding says


def open_study(config: SweepConfig, storage_path: str | None, strategy: str = DEFAULT_STRATEGY) -> Any:
    """The sweep's study: created, or the one that an earlier launch left in the run folder.

    ``storage_path`` None keeps the study in memory. ``strategy`` is a key of `search.fidelity.STRATEGIES`.
    """
    import optuna

    from search.samplers import make_sampler
    from search.study_storage import SoleWriterStorage

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna.create_study(
        study_name=config.name,
        storage=None if storage_path is None else SoleWriterStorage(f"sqlite:///{storage_path}"),
        sampler=make_sampler(config, STRATEGIES[strategy]),
        directions=["minimize"] * len(OBJECTIVES),
        load_if_exists=True,
    )


def forget_unfinished(study: Any, keep: Collection[str | None] = ()) -> None:
    """End the trials that a killed driver left RUNNING, but for those with an id in ``keep``, which will go on.

    A trial that had reached a rung counts as stopped there, one that had not as failed. None in ``keep`` stands for those
    that have no id (`half_asked`).
    """
    from optuna.trial import TrialState

    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if trial.user_attrs.get(TRIAL_ID) not in keep:
            state = TrialState.PRUNED if trial.user_attrs.get(RUNGS) else TrialState.FAIL
            study.tell(trial.number, state=state)


def half_asked(study: Any) -> list[Any]:
    """Trials that were being asked for when the driver was killed, and got no name: the next ones to be asked for.

    What a sampler says depends on a trial's number, so that one left out would change all that come after it.
    """
    import optuna
    from optuna.trial import TrialState

    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    return [optuna.Trial(study, trial._trial_id) for trial in running if TRIAL_ID not in trial.user_attrs]


def never_launched(study: Any, launched: Collection[str]) -> dict[str, dict[str, Any]]:
    """Trials that were asked for, but whose driver was killed before they began: trial id to parameters."""
    from optuna.trial import TrialState

    asked = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    named = {
        trial.user_attrs[TRIAL_ID]: dict(trial.params) for trial in asked if TRIAL_ID in trial.user_attrs
    }
    return {trial_id: params for trial_id, params in named.items() if trial_id not in launched}


def enter_adopted(
    study: Any, space: SearchSpace, adopted: Sequence[tuple[TrialRecord, Mapping[str, Any] | None]]
) -> None:
    """Enter trials of an earlier sweep with their points, as they ended there; what is known or has no point is left out.

    Must come before the first suggestion, for which the sampler reads the study once.
    """
    import optuna
    from optuna.trial import TrialState

    from search.showcase import distributions_of

    known = {trial.user_attrs.get(TRIAL_ID) for trial in study.get_trials(deepcopy=False)}
    distributions = distributions_of(space)
    for record, point in adopted:
        if point is None or record.trial_id in known:
            continue
        rungs = [(rung.examples_seen, rung.eval_loss) for rung in record.rungs]
        completed = record.status == "completed"
        trial = optuna.trial.create_trial(
            state=TrialState.COMPLETE if completed else TrialState.PRUNED,
            params=dict(point),
            distributions=distributions,
            values=[record.eval_loss, float(record.peak_memory_bytes or 0)] if completed else None,
            user_attrs={TRIAL_ID: record.trial_id, RUNGS: rungs, MEMORY: record.peak_memory_bytes},
        )
        if record.status == "infeasible":
            trial.set_constraint(EXCESS, SMALLEST_EXCESS)
        study.add_trial(trial)


class TrialEntry:
    """A trial under way, running or paused, in the study.

    Args:
        study: from `open_study`.
        trial: the `optuna.Trial` that was asked for.
        trial_id: its id in the sweep.
        rungs: ``(examples seen, eval loss)`` that it reached in an earlier launch.
        memory_bytes: what it measured there.
    """

    def __init__(
        self,
        study: Any,
        trial: Any,
        trial_id: str,
        rungs: Sequence[tuple[int, float]] = (),
        memory_bytes: float | None = None,
    ) -> None:
        self._study, self._trial, self._trial_id = study, trial, trial_id
        self.rungs, self.memory_bytes = list(rungs), memory_bytes

    @classmethod
    def create(cls, study: Any, trial: Any, trial_id: str) -> Self:
        """The entry of a trial that was just asked for."""
        trial.set_user_attr(TRIAL_ID, trial_id)
        return cls(study, trial, trial_id)

    @classmethod
    def find(cls, study: Any, trial_id: str) -> Self | None:
        """The entry of a trial that an earlier launch began, to go on; a copy of it when it was ended meanwhile.

        None when the study does not know the trial (the baseline), or it has finished.
        """
        import optuna
        from optuna.trial import TrialState

        entries = [t for t in study.get_trials(deepcopy=False) if t.user_attrs.get(TRIAL_ID) == trial_id]
        if not entries or entries[-1].state == TrialState.COMPLETE:
            return None
        entry = entries[-1]
        if entry.state.is_finished():
            again = optuna.trial.create_trial(
                state=TrialState.RUNNING,
                params=entry.params,
                distributions=entry.distributions,
                user_attrs=entry.user_attrs,
            )
            study.add_trial(again)
            entry = study.get_trials(deepcopy=False)[-1]
        rungs = [(examples, loss) for examples, loss in entry.user_attrs.get(RUNGS, ())]
        trial = optuna.Trial(study, entry._trial_id)
        return cls(study, trial, trial_id, rungs, entry.user_attrs.get(MEMORY))

    def report(self, examples_seen: int, eval_loss: float, memory_bytes: float | None) -> None:
        """Note a rung, and let the sampler know."""
        # A trial that went on from an older checkpoint reports a rung again: the newer result replaces it.
        self.rungs = [rung for rung in self.rungs if rung[0] < examples_seen]
        self.rungs.append((examples_seen, eval_loss))
        self._trial.set_user_attr(RUNGS, self.rungs)
        if memory_bytes is not None and memory_bytes != self.memory_bytes:
            self.memory_bytes = memory_bytes
            self._trial.set_user_attr(MEMORY, memory_bytes)
        number, params = self._trial.number, self._trial.params
        seen = Observation(number, params, "running", tuple(self.rungs), self.memory_bytes)
        self._study.sampler.remember(self._study, self._trial_id, seen)

    def finish(self, values: Sequence[Any]) -> None:
        """The trial reached the full resource, with these objectives."""
        self._study.tell(self._trial, [float(value) for value in values])

    def stop(self) -> None:
        """The scheduler stopped the trial."""
        from optuna.trial import TrialState

        self._study.tell(self._trial, state=TrialState.PRUNED)

    def fail(self) -> None:
        """The trial failed."""
        fail(self._study, self._trial)

    def is_over_budget(self, memory_bytes: float | None, excess: float) -> None:
        """The config needs, or is predicted to need, ``memory_bytes``: ``excess`` of the budget too much."""
        self._trial.set_user_attr(MEMORY, memory_bytes)
        self._trial.set_constraint(EXCESS, max(excess, SMALLEST_EXCESS))
        self.stop()


def fail(study: Any, trial: Any) -> None:
    """Tell the study that nothing came of a trial."""
    from optuna.trial import TrialState

    study.tell(trial, state=TrialState.FAIL)
