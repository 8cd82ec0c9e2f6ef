"""The study's storage: it answers from memory what Optuna's own would read from the database."""

from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from search.study_storage import SoleWriterStorage

optuna.logging.set_verbosity(optuna.logging.ERROR)
DIRECTIONS = ["minimize", "minimize"]


def url(folder: Path) -> str:
    return f"sqlite:///{folder / 'optuna.db'}"


def study_in(folder: Path) -> Any:
    return optuna.create_study(
        study_name="s", storage=SoleWriterStorage(url(folder)), directions=DIRECTIONS, load_if_exists=True
    )


def ask(study: Any) -> Any:
    trial = study.ask()
    trial.suggest_float("rate", 1e-4, 1e-2, log=True)
    trial.suggest_categorical("targets", ["mlp", "all"])
    trial.set_user_attr("rungs", [(16, 3.5)])
    return trial


def filled(folder: Path) -> Any:
    """A trial in every state."""
    study = study_in(folder)
    study.tell(ask(study), [1.0, 2.0])
    study.tell(ask(study), state=TrialState.PRUNED)
    study.tell(ask(study).number, state=TrialState.FAIL)
    over = ask(study)
    over.set_constraint("memory_budget", 0.5)
    study.enqueue_trial({"rate": 1e-3, "targets": "mlp"})
    assert study.ask().params == {}
    study.enqueue_trial({"rate": 1e-3, "targets": "all"})
    study.set_user_attr("begun", True)
    return study


def test_what_it_knows_is_what_the_database_holds(tmp_path: Path) -> None:
    study = filled(tmp_path)
    read = optuna.load_study(study_name="s", storage=optuna.storages.RDBStorage(url(tmp_path)))
    for mine, theirs in zip(study.trials, read.trials, strict=True):
        for name in ("number", "state", "params", "distributions", "values", "user_attrs", "system_attrs"):
            assert getattr(mine, name) == getattr(theirs, name), name
        assert (mine.datetime_complete is None) == (theirs.datetime_complete is None)
    assert [trial.state.name for trial in study.trials] == [
        "COMPLETE",
        "PRUNED",
        "FAIL",
        "RUNNING",
        "RUNNING",
        "WAITING",
    ]
    assert study.trials[3].constraints == {"memory_budget": 0.5}


def test_a_resumed_study_goes_on_with_what_was_running(tmp_path: Path) -> None:
    filled(tmp_path)
    again = study_in(tmp_path)
    assert again.user_attrs == {"begun": True}
    running = again.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    assert [trial.number for trial in running] == [3, 4]
    again.tell(3, [3.0, 4.0])
    assert again.ask().number == 5  # the one that waited
    assert again.get_trials(states=(TrialState.COMPLETE,))[1].values == [3.0, 4.0]
    with pytest.raises(ValueError, match="Cannot tell"):
        again.tell(3, [1.0, 1.0])


def test_trials_that_were_handed_out_stay_as_they_were(tmp_path: Path) -> None:
    study = study_in(tmp_path)
    trial = ask(study)
    before = study.get_trials(deepcopy=False)[0]
    study.tell(trial, [1.0, 2.0])
    assert before.state == TrialState.RUNNING
    assert study.get_trials(deepcopy=False)[0].state == TrialState.COMPLETE


def test_trials_under_way_are_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = study_in(tmp_path)
    trials = [ask(study) for _ in range(3)]

    def read(*arguments: object, **named: object) -> None:
        raise AssertionError("the database was read")

    monkeypatch.setattr(optuna.storages.RDBStorage, "get_all_trials", read)
    monkeypatch.setattr(optuna.storages.RDBStorage, "_get_trials", read)
    trials.append(ask(study))
    study.tell(trials[0], [1.0, 2.0])
    assert len(study.get_trials(states=(TrialState.RUNNING,))) == 3


def test_a_deleted_study_is_forgotten(tmp_path: Path) -> None:
    study = filled(tmp_path)
    storage, first = study._storage, study.trials[0]._trial_id
    storage.delete_study(study._study_id)
    with pytest.raises(KeyError):
        storage.get_trial(first)
