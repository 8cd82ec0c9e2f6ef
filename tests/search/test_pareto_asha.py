"""Pareto-ASHA as Ray Tune drives it: going on, pausing, promotion, the end, and going on after a restart."""

from pathlib import Path
from typing import Any

import pytest
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from search.pareto_asha import ParetoAsha, PastReport
from search.rung import Report
from search.scheduler import is_baseline, make_scheduler
from search.slots import SlotSearcher
from trainables.settings import ExecutionSettings, TrialConfig, TrialSpec

CONTINUE, PAUSE = TrialScheduler.CONTINUE, TrialScheduler.PAUSE


class FakeTrial:
    def __init__(self, name: str, kind: str = "lora", launch: int = 1) -> None:
        self.trial_id = f"{launch}-{name}"
        self.config = {"spec": {"trial_id": name, "kind": kind}}
        self.status = Trial.PENDING


class Tune:
    """The part of Tune's controller that a scheduler sees; `report` does what Tune does with a decision."""

    def __init__(self, scheduler: ParetoAsha) -> None:
        self.scheduler, self.trials, self.search_alg = scheduler, [], self
        self.finished = False
        self.stopped: list[str] = []

    def is_finished(self) -> bool:
        return self.finished

    def get_trials(self) -> list[FakeTrial]:
        return self.trials

    def stop_trial(self, trial: Any) -> None:
        self.scheduler.on_trial_remove(self, trial)
        trial.status = Trial.TERMINATED
        self.stopped.append(trial.config["spec"]["trial_id"])

    def start(self, name: str, kind: str = "lora") -> FakeTrial:
        trial = FakeTrial(name, kind)
        self.trials.append(trial)
        self.scheduler.on_trial_add(self, trial)
        trial.status = Trial.RUNNING
        return trial

    def report(self, trial: FakeTrial, examples: int, loss: float, memory: float, **more: Any) -> str:
        result = {"examples_seen": examples, "eval_loss": loss, "peak_memory_bytes": memory, **more}
        decision = self.scheduler.on_trial_result(self, trial, result)
        if decision == PAUSE:
            trial.status = Trial.PAUSED
        return decision


def tune(workers: int = 2, past: list[PastReport] | None = None, patient: bool = True) -> Tune:
    scheduler = ParetoAsha(
        (16, 48, 144), 3, workers=workers, past=past or [], exempt=is_baseline, patient=patient
    )
    return Tune(scheduler)


def reported(sweep: Tune, *measured: tuple[float, float], first: int = 1) -> list[FakeTrial]:
    """New trials t1, t2, ... that report at the first rung."""
    trials = [sweep.start(f"t{number}") for number in range(first, first + len(measured))]
    for trial, (loss, memory) in zip(trials, measured, strict=True):
        sweep.report(trial, 16, loss, memory)
    return trials


def test_a_small_trial_goes_on_although_its_loss_is_worst() -> None:
    sweep = tune(workers=100)
    decisions = [
        sweep.report(sweep.start(f"t{n}"), 16, loss, memory)
        for n, (loss, memory) in enumerate(
            [(3.0, 900), (3.1, 900), (3.2, 900), (3.3, 900), (3.4, 900), (3.6, 300)]
        )
    ]
    assert decisions == [PAUSE] * 5 + [CONTINUE]
    chosen = sweep.scheduler.choose_trial_to_run(sweep)
    assert chosen is not None  # the best loss of all is the other one in three
    assert chosen.config["spec"]["trial_id"] == "t0"


def test_nothing_is_decided_at_the_full_resource_nor_for_the_baseline() -> None:
    sweep = tune()
    for number in range(3):
        assert sweep.report(sweep.start(f"t{number}"), 144, 3.0 + number, 900) == CONTINUE
    baseline = sweep.start("baseline", "full")
    sweep.report(sweep.start("t7"), 16, 1.0, 1)
    assert sweep.report(baseline, 16, 9.0, 9000) == CONTINUE


def test_a_paused_trial_is_promoted_when_the_picture_changes() -> None:
    sweep = tune()
    first, second = reported(sweep, (3.0, 900), (3.1, 900))
    assert (first.status, second.status) == (Trial.PAUSED, Trial.PAUSED)
    assert sweep.scheduler.choose_trial_to_run(sweep) is None  # one of two is more than one in three
    reported(sweep, (3.5, 950), first=3)
    assert sweep.scheduler.wants_promotion()
    assert sweep.scheduler.choose_trial_to_run(sweep) is first
    first.status = Trial.RUNNING
    assert sweep.scheduler.choose_trial_to_run(sweep) is None
    reported(sweep, (3.6, 950), (3.7, 950), (3.8, 950), first=4)
    assert sweep.scheduler.choose_trial_to_run(sweep) is second
    second.status = Trial.RUNNING
    assert sweep.report(second, 144, 2.9, 900) == CONTINUE


def test_no_promotion_without_a_free_worker_or_before_the_checkpoint_is_written() -> None:
    sweep = tune(workers=1)
    paused, *_ = reported(sweep, (3.0, 900), (3.5, 950), (3.6, 950))
    running = sweep.start("t4")
    assert sweep.scheduler.choose_trial_to_run(sweep) is None
    sweep.scheduler.on_trial_complete(sweep, running, {})
    running.status = Trial.TERMINATED
    paused.status = Trial.RUNNING  # still saving
    assert sweep.scheduler.choose_trial_to_run(sweep) is None
    assert not sweep.scheduler.is_idle
    paused.status = Trial.PAUSED
    assert sweep.scheduler.choose_trial_to_run(sweep) is paused


def test_the_smallest_sweep_completes_a_trial_and_then_paused_ones_end() -> None:
    sweep = tune()
    worse, better = reported(sweep, (3.1, 900), (3.0, 900))
    sweep.finished = True
    assert sweep.scheduler.choose_trial_to_run(sweep) is better
    better.status = Trial.RUNNING
    assert sweep.report(better, 48, 2.5, 900) == CONTINUE  # alone at its rung
    assert sweep.scheduler.choose_trial_to_run(sweep) is None
    assert sweep.stopped == []
    assert sweep.report(better, 144, 2.0, 900) == CONTINUE
    sweep.scheduler.on_trial_complete(sweep, better, {})
    better.status = Trial.TERMINATED
    assert sweep.scheduler.choose_trial_to_run(sweep) is None
    assert sweep.stopped == ["t1"]
    assert not sweep.scheduler.is_paused(worse)


def test_those_who_are_among_the_best_go_on_however_many_went_before() -> None:
    """As in ASHA: an early trial that looked good does not take a later, better one's place."""
    sweep = tune(workers=100)
    decisions = [sweep.report(sweep.start(f"t{n}"), 16, 3.0 - n / 10, 900) for n in range(9)]
    assert [n for n, decision in enumerate(decisions) if decision == CONTINUE] == list(range(2, 9))


def at_48(sweep: Tune, number: int, loss: float, final: float | None = None) -> str:
    """A trial that the first rung lets go on, as it is better there than all before; and its decision at the next."""
    trial = sweep.start(f"t{number:02d}")
    sweep.report(trial, 16, 9.0 - number / 100, 900)
    decision = sweep.report(trial, 48, loss, 900)
    if decision == CONTINUE and final is not None:
        sweep.report(trial, 144, final, 900)
    return decision


def all_promoted(sweep: Tune) -> list[str]:
    """The paused trials that go on now, one after the other."""
    chosen = iter(lambda: sweep.scheduler.choose_trial_to_run(sweep), None)
    return [trial.config["spec"]["trial_id"] for trial in chosen]


@pytest.mark.parametrize(("order", "then"), [(1, PAUSE), (-1, CONTINUE)])
def test_a_later_rung_decides_once_it_has_proven_that_it_tells(order: int, then: str) -> None:
    sweep = tune(workers=100)
    losses = [4.0 + (7 * number % 10) / 10 for number in range(10)]
    decisions = [at_48(sweep, number, loss, order * loss) for number, loss in enumerate(losses)]
    assert decisions[:5] == [CONTINUE] * 5  # too few to prove anything
    assert at_48(sweep, 10, 8.0) == then
    assert at_48(sweep, 11, 1.0) == CONTINUE


def test_without_patience_every_rung_decides_from_the_start() -> None:
    sweep = tune(workers=100, patient=False)
    assert [at_48(sweep, number, 4.0 + number) for number in range(4)] == [PAUSE] * 4
    patient = tune(workers=100)
    assert [at_48(patient, number, 4.0 + number) for number in range(4)] == [CONTINUE] * 4


def test_what_a_rung_has_proven_is_not_forgotten(tmp_path: Path) -> None:
    """Neither by a later launch nor by what was saved and restored."""
    whole = tune(workers=100)
    losses = [4.0 + (7 * number % 10) / 10 for number in range(10)]
    for number, loss in enumerate(losses):
        at_48(whole, number, loss, loss)
    assert at_48(whole, 10, 8.0) == PAUSE
    past = [
        PastReport(name, examples, report, "paused" if (name, examples) == ("t10", 48) else "went on")
        for examples, rung in whole.scheduler._rungs.items()
        for name, report in rung.reports.items()
    ]
    whole.scheduler.save(str(tmp_path / "state"))
    restored = tune(workers=100)
    restored.scheduler.restore(str(tmp_path / "state"))
    restored.trials = whole.trials
    later = tune(workers=100, past=past)
    assert later.scheduler.revive() is None
    assert all_promoted(restored) == all_promoted(whole)
    assert whole.scheduler.is_paused(whole.trials[10])
    for sweep in (whole, restored, later):
        assert at_48(sweep, 11, 8.0) == PAUSE


@pytest.mark.parametrize(("is_known", "best"), [(True, ["t1", "t2"]), (False, ["t1", "t3"])])
def test_the_untouched_model_is_a_competitor_once_it_is_known(is_known: bool, best: list[str]) -> None:
    """t3 is by far the smallest, and no better than no training at all."""
    sweep = tune()
    known = {"base_eval_loss": 4.0, "base_eval_loss_stderr": 0.1, "base_example_losses": [3.9, 4.1]}
    measured = [(3.0, 900), (3.5, 800), (4.2, 100), (3.2, 850), (3.6, 820), (3.7, 830)]
    for number, (loss, memory) in enumerate(measured, 1):
        result = {"examples_seen": 16, "eval_loss": loss, "peak_memory_bytes": memory}
        parts = {"example_losses": [loss - 0.1, loss + 0.1]}
        first = known if is_known and number == 1 else {}
        sweep.scheduler.on_trial_result(sweep, sweep.start(f"t{number}"), result | parts | first)
    assert sweep.scheduler._rungs[16].best == best


def test_an_error_frees_the_worker_and_forgets_the_pause() -> None:
    sweep = tune(workers=1)
    trial = sweep.start("t1")
    assert not sweep.scheduler.has_room
    sweep.scheduler.on_trial_error(sweep, trial)
    assert sweep.scheduler.has_room
    assert sweep.scheduler.is_idle


def past_of(decisions: list[tuple[str, float, float, str]]) -> list[PastReport]:
    then = {CONTINUE: "went on", PAUSE: "paused"}
    return [PastReport(n, 16, Report(loss, 0.0, memory), then[d]) for n, loss, memory, d in decisions]  # type: ignore[arg-type]


@pytest.mark.parametrize("cut", range(1, 12))
def test_after_a_restart_every_later_decision_is_the_same(cut: int) -> None:
    measured = [(3.0 + (7 * n) % 12 / 10, 300.0 + (5 * n) % 12 * 50) for n in range(12)]
    whole = tune()
    expected = [whole.report(whole.start(f"t{n}"), 16, *m) for n, m in enumerate(measured)]
    rows = [(f"t{n}", *measured[n], expected[n]) for n in range(cut)]
    restarted = tune(past=past_of(rows))
    found = [restarted.report(restarted.start(f"t{n}"), 16, *measured[n]) for n in range(cut, 12)]
    assert found == expected[cut:]


@pytest.mark.parametrize("cut", range(1, 12))
def test_saved_and_restored_it_decides_as_if_it_had_gone_on(cut: int, tmp_path: Path) -> None:
    """Whatever comes after: reports, promotions of paused trials, and who they are."""
    measured = [(3.0 + (7 * n) % 12 / 10, 300.0 + (5 * n) % 12 * 50) for n in range(12)]

    def go_on(sweep: Tune, first: int) -> list[Any]:
        found: list[Any] = []
        for n in range(first, 12):
            chosen = sweep.scheduler.choose_trial_to_run(sweep)
            if chosen is not None:
                chosen.status = Trial.RUNNING
                found.append(chosen.config["spec"]["trial_id"])
                sweep.scheduler.on_trial_complete(sweep, chosen, {})
            trial = sweep.start(f"t{n}")
            found.append(sweep.report(trial, 16, *measured[n], example_losses=[n / 7, measured[n][0]]))
            if found[-1] == CONTINUE:
                sweep.scheduler.on_trial_complete(sweep, trial, {})
        return found

    whole, saved = tune(), tune()
    for sweep in (whole, saved):
        for n in range(cut):
            sweep.report(sweep.start(f"t{n}"), 16, *measured[n], example_losses=[n / 7, measured[n][0]])
    saved.scheduler.save(str(tmp_path / "state"))
    saved.scheduler = tune().scheduler
    saved.scheduler.restore(str(tmp_path / "state"))
    decisions = go_on(whole, cut)
    assert go_on(saved, cut) == decisions
    assert cut > 6 or any(str(each).startswith("t") for each in decisions)  # somebody was promoted


def test_a_trial_paused_by_an_earlier_launch_is_revived_through_the_searcher() -> None:
    rows = [(f"t{n}", 3.0 + n / 10, 900.0, CONTINUE if n == 1 else PAUSE) for n in (1, 2, 3, 5, 6)]
    sweep = tune(past=past_of(rows))
    asked = []

    class Sampler(Searcher):
        def suggest(self, trial_id: str) -> Any:
            asked.append(trial_id)
            return {"spec": {"trial_id": "t4", "kind": "lora"}} if len(asked) == 1 else Searcher.FINISHED

    def revived(name: str) -> TrialSpec:
        return TrialSpec(
            trial_id=name, config=TrialConfig(), execution=ExecutionSettings(), target_modules=(), rungs=(16,),
            base_model_path="m", resume_from="checkpoint",
        )  # fmt: skip

    searcher = SlotSearcher(Sampler(), sweep.scheduler, revived)
    assert searcher.suggest("a")["spec"]["trial_id"] == "t4"
    new = sweep.start("t4")
    sweep.report(new, 16, 3.6, 990)
    spec = searcher.suggest("b")["spec"]
    assert (spec["trial_id"], spec["resume_from"]) == ("t2", "checkpoint")
    going_on = sweep.start("t2")
    assert searcher.suggest("c") is None  # the sampler has no more, but t2 may change the picture
    sweep.report(going_on, 144, 2.0, 900)
    sweep.scheduler.on_trial_complete(sweep, going_on, {})
    assert searcher.suggest("d") == Searcher.FINISHED


def test_the_searcher_waits_for_a_free_worker() -> None:
    class Sampler(Searcher):
        def suggest(self, trial_id: str) -> Any:
            return {"spec": {}}

    sweep = tune(workers=1)
    searcher = SlotSearcher(Sampler(), sweep.scheduler, lambda name: pytest.fail("nothing to revive"))
    assert searcher.suggest("a") == {"spec": {}}
    trial = sweep.start("t1")
    assert searcher.suggest("b") is None
    sweep.scheduler.on_trial_complete(sweep, trial, {})
    assert searcher.suggest("b") == {"spec": {}}


def test_a_trial_that_ends_while_paused_ends_with_its_last_result() -> None:
    ended = {}

    class Sampler(Searcher):
        def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
            ended[trial_id] = result

    searcher = SlotSearcher(Sampler(), tune().scheduler, lambda name: pytest.fail("nothing to revive"))
    searcher.on_trial_result("a", {"eval_loss": 2.0})
    searcher.on_trial_complete("a")
    searcher.on_trial_complete("b", {"eval_loss": 3.0})
    assert ended == {"a": {"eval_loss": 2.0}, "b": {"eval_loss": 3.0}}


def test_by_name_it_is_the_pareto_aware_one() -> None:
    assert isinstance(make_scheduler("pareto-asha", (16, 48), 3), ParetoAsha)
    assert not isinstance(make_scheduler("pareto-asha", (16,), 3), ParetoAsha)
    assert not isinstance(make_scheduler("asha", (16, 48), 3), ParetoAsha)
