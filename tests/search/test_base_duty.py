from pathlib import Path

from search.base_duty import BaseDuty
from trainables.settings import ExecutionSettings, TrialConfig, TrialSpec


def spec(trial_id: str) -> TrialSpec:
    return TrialSpec(
        trial_id=trial_id,
        config=TrialConfig(),
        execution=ExecutionSettings(),
        target_modules=("q_proj",),
        rungs=(4,),
        base_model_path=str(Path("model")),
    )


def test_one_trial_at_a_time_evaluates_the_base_until_it_is_known() -> None:
    known = False
    duty = BaseDuty(lambda: known)
    assert duty.assign(spec("t0001")).evaluate_base
    assert not duty.assign(spec("t0002")).evaluate_base
    duty.ended("t0002")
    assert not duty.assign(spec("t0003")).evaluate_base
    duty.ended("t0001")  # failed before it reported
    assert duty.assign(spec("t0004")).evaluate_base
    known = True
    duty.ended("t0004")
    assert not duty.assign(spec("t0005")).evaluate_base
