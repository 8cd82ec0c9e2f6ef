"""An Optuna storage that reads its database once, for the one process that writes into it.

Optuna's own asks the database anew at every suggestion for each trial that has not ended, which to it are also all paused
ones: with 500 trials that took 0.25 s a trial, and it grows with their number. A sweep's run folder is locked, so that
nobody else can have changed anything.

Imports Optuna: import it where a study is opened.
"""

import copy
import json
from collections.abc import Container, Sequence
from datetime import datetime
from typing import Any

from optuna.distributions import BaseDistribution, check_distribution_compatibility
from optuna.storages import BaseStorage, RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState


class _KnownTrials:
    """The trials of one study, by state and number, so that those which have ended are not looked through."""

    def __init__(self, trials: Sequence[FrozenTrial]) -> None:
        self._by_state: dict[TrialState, dict[int, FrozenTrial]] = {state: {} for state in TrialState}
        self._distributions: dict[str, BaseDistribution] = {}
        self.ids: list[int] = []
        for trial in trials:
            self.add(trial)

    def add(self, trial: FrozenTrial) -> None:
        """A new trial; its number is the next one."""
        self._by_state[trial.state][trial.number] = trial
        self.ids.append(trial._trial_id)
        self._distributions |= trial.distributions

    def check(self, name: str, distribution: BaseDistribution) -> None:
        """Raises ValueError if a dimension was of another kind before."""
        check_distribution_compatibility(self._distributions.setdefault(name, distribution), distribution)

    def replace(self, old: FrozenTrial, new: FrozenTrial) -> None:
        """What is known of a trial has changed."""
        if new.state != old.state:
            del self._by_state[old.state][old.number]
        self._by_state[new.state][new.number] = new

    def of(self, states: Container[TrialState] | None) -> list[FrozenTrial]:
        """Those in some states (None: all), by number."""
        chosen = [trials for state, trials in self._by_state.items() if states is None or state in states]
        return sorted((trial for trials in chosen for trial in trials.values()), key=lambda each: each.number)


class SoleWriterStorage(BaseStorage):
    """Writes through to a database, and answers from memory.

    The dimensions of a trial's point are written together, before whatever else is written of it: a kill in between
    leaves a trial that `search.study.half_asked` finds.

    A trial that was handed out stays as it was then: a change makes a new object, as in Optuna's `InMemoryStorage`.
    """

    def __init__(self, url: str) -> None:
        self._database = RDBStorage(url)
        self._studies: dict[int, _KnownTrials] = {}
        self._trials: dict[int, tuple[int, FrozenTrial]] = {}  # by id; the study's id beside it
        self._directions: dict[int, list[StudyDirection]] = {}
        self._unwritten: dict[int, list[tuple[str, float, BaseDistribution]]] = {}  # params, by trial

    def _known(self, study_id: int) -> _KnownTrials:
        if study_id not in self._studies:
            trials = self._database.get_all_trials(study_id)
            self._trials |= {trial._trial_id: (study_id, trial) for trial in trials}
            self._studies[study_id] = _KnownTrials(trials)
        return self._studies[study_id]

    def _entry(self, trial_id: int) -> tuple[int, FrozenTrial]:
        if trial_id not in self._trials:  # raises KeyError if there is none
            for study in self._database.get_all_studies():
                self._known(study._study_id)
        return self._trials[trial_id]

    def _change(self, trial_id: int, **attributes: Any) -> None:
        study_id, old = self._entry(trial_id)
        new = copy.copy(old)
        for name, value in attributes.items():
            setattr(new, name, value)
        self._trials[trial_id] = study_id, new
        self._studies[study_id].replace(old, new)

    def _write_params(self, trial_id: int) -> None:
        """Write the dimensions of a trial that are still to be written, in one transaction."""
        params = self._unwritten.get(trial_id)
        if params is None:
            return
        session = self._database.scoped_session()
        try:
            for name, value, distribution in params:
                self._database._set_trial_param_without_commit(
                    session, trial_id, name, value, distribution, distribution
                )
            session.commit()
        finally:
            session.close()
        del self._unwritten[trial_id]

    # Studies: as the database says.
    def create_new_study(self, directions: Sequence[StudyDirection], study_name: str | None = None) -> int:
        """Make a study."""
        return int(self._database.create_new_study(directions, study_name))

    def delete_study(self, study_id: int) -> None:
        """Remove a study with its trials."""
        self._database.delete_study(study_id)
        for known in (self._studies, self._directions):
            known.pop(study_id, None)
        self._trials = {number: entry for number, entry in self._trials.items() if entry[0] != study_id}

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        """Write a study's attribute."""
        self._database.set_study_user_attr(study_id, key, value)

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        """Write an attribute of Optuna's own."""
        self._database.set_study_system_attr(study_id, key, value)

    def get_study_id_from_name(self, study_name: str) -> int:
        """Look a study up."""
        return int(self._database.get_study_id_from_name(study_name))

    def get_study_name_from_id(self, study_id: int) -> str:
        """Look a study up."""
        return str(self._database.get_study_name_from_id(study_id))

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        """What is minimised; asked for at every end of a trial, so it is kept."""
        if study_id not in self._directions:
            self._directions[study_id] = self._database.get_study_directions(study_id)
        return self._directions[study_id]

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        """Read a study's attributes."""
        return dict(self._database.get_study_user_attrs(study_id))

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        """Read those of Optuna's own."""
        return dict(self._database.get_study_system_attrs(study_id))

    def get_all_studies(self) -> list[Any]:
        """Read all studies."""
        return list(self._database.get_all_studies())

    # Trials: written through.
    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        """Make a trial, by default a running one."""
        known = self._known(study_id)
        trial_id = int(self._database.create_new_trial(study_id, template_trial))
        trial = self._database.get_trial(trial_id)
        self._trials[trial_id] = study_id, trial
        known.add(trial)
        return trial_id

    def set_trial_param(
        self, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution
    ) -> None:
        """Write one dimension of a trial's point."""
        study_id, trial = self._entry(trial_id)
        self.check_trial_is_updatable(trial_id, trial.state)
        self._studies[study_id].check(param_name, distribution)
        self._unwritten.setdefault(trial_id, []).append((param_name, param_value_internal, distribution))
        value = distribution.to_external_repr(param_value_internal)
        self._change(
            trial_id,
            params=trial.params | {param_name: value},
            distributions=trial.distributions | {param_name: distribution},
        )

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        """Write how a trial ended, or that a waiting one runs; False if it was not waiting."""
        self._entry(trial_id)
        self._write_params(trial_id)
        if not self._database.set_trial_state_values(trial_id, state, values):
            return False
        now = datetime.now()
        changes: dict[str, Any] = {"state": state}
        changes |= {"values": list(values)} if values is not None else {}
        changes |= {"datetime_start": now} if state == TrialState.RUNNING else {}
        changes |= {"datetime_complete": now} if state.is_finished() else {}
        self._change(trial_id, **changes)
        return True

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        """Write a value at a step (lorafront has none)."""
        _, trial = self._entry(trial_id)
        self._write_params(trial_id)
        self._database.set_trial_intermediate_value(trial_id, step, intermediate_value)
        self._change(trial_id, intermediate_values=trial.intermediate_values | {step: intermediate_value})

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Write a trial's attribute."""
        _, trial = self._entry(trial_id)
        self._write_params(trial_id)
        self._database.set_trial_user_attr(trial_id, key, value)
        self._change(trial_id, user_attrs=trial.user_attrs | {key: _as_read(value)})

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Write an attribute of Optuna's own."""
        _, trial = self._entry(trial_id)
        self._write_params(trial_id)
        self._database.set_trial_system_attr(trial_id, key, value)
        self._change(trial_id, system_attrs=trial.system_attrs | {key: _as_read(value)})

    # Trials: from memory.
    def get_trial(self, trial_id: int) -> FrozenTrial:
        """One trial."""
        return self._entry(trial_id)[1]

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """A study's trials by number."""
        trials = self._known(study_id).of(states)
        return copy.deepcopy(trials) if deepcopy else trials

    def get_trial_id_from_study_id_trial_number(self, study_id: int, trial_number: int) -> int:
        """The id behind a number."""
        ids = self._known(study_id).ids
        if not 0 <= trial_number < len(ids):
            raise KeyError(f"study {study_id} has no trial of number {trial_number}")
        return ids[trial_number]

    def remove_session(self) -> None:
        """Close this thread's connection."""
        self._database.remove_session()


def _as_read(value: Any) -> Any:
    """An attribute as the database would give it back: tuples have become lists."""
    return json.loads(json.dumps(value))
