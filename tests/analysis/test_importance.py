import random
from typing import Any

import pytest

from analysis.importance import comparable_losses, hyperparameter_importance, searched_dimensions
from analysis.records import RungResult, TrialRecord
from analysis.results import Run


def trial(index: int, loss: float, memory: int | None = None, **config: Any) -> TrialRecord:
    rung = RungResult(examples_seen=16, eval_loss=loss, eval_loss_stderr=0.1)
    return TrialRecord(
        trial_id=f"t{index}",
        status="completed",
        config=config,
        eval_loss=loss,
        peak_memory_bytes=memory,
        memory_source=None if memory is None else "measured",
        rungs=[rung],
    )


def sweep_where_only_the_rate_matters(count: int = 24) -> list[TrialRecord]:
    rng = random.Random(1)
    trials = []
    for index in range(count):
        rate, batch = 10 ** rng.uniform(-4, -2), rng.choice([2, 4, 8])
        settings = {
            "rank": rng.choice([2, 8, 32]),
            "alpha": 16.0,
            "targets": rng.choice(["mlp", "attention"]),
        }
        trials.append(
            trial(index, 4 + rate * 100, batch * 2**28, learning_rate=rate, batch_size=batch, **settings)
        )
    return trials


def test_the_setting_that_matters_comes_out_first_for_each_objective() -> None:
    trials = sweep_where_only_the_rate_matters()
    loss = hyperparameter_importance(trials, "eval_loss")
    memory = hyperparameter_importance(trials, "peak_memory_bytes")
    assert next(iter(loss.shares)) == "learning_rate"
    assert loss.shares["learning_rate"] > 0.8
    assert memory.shares["batch_size"] > 0.8
    for importance in (loss, memory):
        assert importance.reason is None
        assert sum(importance.shares.values()) == pytest.approx(1)
        assert list(importance.shares.values()) == sorted(importance.shares.values(), reverse=True)


def test_the_same_trials_give_the_same_figures() -> None:
    trials = sweep_where_only_the_rate_matters(12)
    first, second = (hyperparameter_importance(trials, "eval_loss") for _ in range(2))
    assert first == second


def test_few_completed_trials_are_compared_at_the_first_rung(run: Run) -> None:
    importance = hyperparameter_importance(run.front.trials, "eval_loss")
    assert importance.num_trials == 14  # all but the failed and the infeasible one
    assert importance.basis == "loss after 16 examples (14 trials)"
    losses, _ = comparable_losses(run.front.trials)
    first = {record.trial_id: record.rungs[0].eval_loss for record in run.front.trials if record.rungs}
    assert losses == first


def test_many_completed_trials_are_compared_by_their_final_loss() -> None:
    trials = [trial(index, 3.0 + index, rank=2**index) for index in range(8)]
    trials.append(trial(9, 9.0, rank=512).model_copy(update={"status": "stopped"}))
    losses, basis = comparable_losses(trials)
    assert len(losses) == 8
    assert basis == "loss of completed trials (8 trials)"
    assert comparable_losses(trials[:7])[1].startswith("loss after 16 examples")


def test_diverged_trials_and_other_rungs_are_left_out() -> None:
    trials = [trial(index, 3.0 + index, rank=index + 1) for index in range(4)]
    trials[0].rungs[0].eval_loss = float("nan")
    trials[1].rungs[0].examples_seen = 48
    assert set(comparable_losses(trials)[0]) == {"t2", "t3"}


def test_only_settings_that_differ_are_dimensions_with_alpha_as_a_ratio() -> None:
    first: dict[str, Any] = {
        "rank": 8,
        "alpha": 16.0,
        "targets": "mlp",
        "target_modules": ["up_proj"],
        "dropout": 0.0,
    }
    trials = [
        trial(0, 1.0, **first),
        trial(1, 1.0, **{**first, "alpha": 8.0, "target_modules": ["q_proj"]}),
        trial(2, 1.0, **{**first, "rank": 16, "alpha": 16.0}),
    ]
    assert searched_dimensions(trials) == {"rank": [8, 8, 16], "alpha / rank": [2.0, 1.0, 1.0]}
    assert searched_dimensions([]) == {}


@pytest.mark.parametrize(
    ("trials", "reason"),
    [
        ([], "at least 4 trials with a loss, there are 0"),
        ([trial(i, 3.0 + i, rank=i + 1) for i in range(3)], "at least 4 trials with a loss, there are 3"),
        ([trial(i, 3.0 + i, rank=8) for i in range(6)], "no hyperparameter differs"),
        ([trial(i, 3.0, rank=i + 1) for i in range(6)], "every trial has the same loss"),
    ],
)
def test_where_nothing_can_be_said_the_reason_is_given(trials: list[TrialRecord], reason: str) -> None:
    importance = hyperparameter_importance(trials, "eval_loss")
    assert importance.shares == {}
    assert reason in (importance.reason or "")


def test_predicted_memory_is_not_a_measurement() -> None:
    trials = [trial(index, 3.0, 1000 + index, rank=index + 1) for index in range(5)]
    for record in trials[:2]:
        record.memory_source = "predicted"
    assert "there are 3" in (hyperparameter_importance(trials, "peak_memory_bytes").reason or "")


def test_dimensions_of_any_type_and_zeros_work() -> None:
    trials = [
        trial(
            i, 3.0 + 0.1 * i, dropout=0.05 * (i % 2), use_dora=i % 3 == 0, targets=f"set-{i % 4}", rank=2**i
        )
        for i in range(10)
    ]
    shares = hyperparameter_importance(trials, "eval_loss").shares
    assert set(shares) == {"dropout", "use_dora", "targets", "rank"}


def test_optuna_says_nothing_on_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    hyperparameter_importance(sweep_where_only_the_rate_matters(8), "eval_loss")
    assert capfd.readouterr().err == ""


def test_of_very_many_trials_a_sample_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    trials = sweep_where_only_the_rate_matters(40)
    monkeypatch.setattr("analysis.importance.MOST_TRIALS", 25)
    found = hyperparameter_importance(trials, "eval_loss")
    assert found.num_trials == 25
    assert found.basis.endswith("a random 25 of them")
    assert next(iter(found.shares)) == "learning_rate"
    assert found == hyperparameter_importance(trials, "eval_loss")
