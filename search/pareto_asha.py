"""Pareto-aware ASHA: a Ray Tune scheduler that keeps the trials worth having for a front of loss against memory."""

import json
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler

from search.rung import Report, Rung
from search.rung_state import load_rung, rung_state
from search.rung_trust import tells


class PastReport(NamedTuple):
    """A rung that a trial of an earlier launch reached.

    ``then``: it went on from there, it was paused there (and has a checkpoint to go on from), or it ended there.
    """

    trial_id: str
    examples: int
    report: Report
    then: Literal["went on", "paused", "ended"]


def trial_name(trial: Any) -> str:
    """The sweep's own id of a Tune trial: the same in every launch."""
    return str(trial.config["spec"]["trial_id"])


class ParetoAsha(TrialScheduler):
    """Asynchronous successive halving by Pareto rank (MO-ASHA, arXiv 2106.12639), pausing instead of killing.

    A trial that reports at a rung goes on if it is among the best 1 / ``reduction_factor`` of those seen there so far,
    rounded down (`Rung.best`). Otherwise it is paused, and its worker takes another trial: none waits for a rung to fill.
    When a worker is free and the rung's picture has changed so far that a paused trial belongs to the best, it goes on
    from its checkpoint before anything new is started (ASHA's promotion, arXiv 1810.05934, algorithm 2).

    Unlike in the papers, a rung after the first decides only once it has proven that its losses are in the order of those
    at the next one (`tells`); until then it lets everybody go on. With ``patient=False`` all rungs decide from the start.

    The untouched model competes, too: a trial that is no better than it within noise is not on the front, however small.
    When nothing new is to come (`expect_no_more`), every rung from which nobody went on sends its best one, so that the
    smallest sweep completes a trial, and then the paused trials end.

    Args:
        rungs: numbers of examples, ascending; at the last one nothing is left to decide.
        reduction_factor: eta in the papers.
        workers: how many trials run at once, or what tells it, where that changes.
        patient: whether a rung after the first has to prove itself.
        past: reports of earlier launches. Their trials can be promoted, too: `revive` names them.
        base: the untouched model in no memory, if an earlier launch evaluated it; else a trial's result tells.
        resolution: relative difference of memory below which two trials need the same.
        exempt: which Tune trials always go on (the baseline).
    """

    def __init__(
        self,
        rungs: Sequence[int],
        reduction_factor: int,
        *,
        workers: int | Callable[[], int] = 1,
        patient: bool = True,
        past: Sequence[PastReport] = (),
        base: Report | None = None,
        resolution: float = 0.01,
        exempt: Callable[[Any], bool] = lambda trial: False,
    ) -> None:
        super().__init__()
        self._workers = workers if callable(workers) else lambda: workers
        self._exempt, self._patient = exempt, patient
        self._rungs = {examples: Rung(examples, reduction_factor, resolution) for examples in rungs}
        self._deciding = set(rungs[:1] if patient else rungs[:-1])
        self._paused: dict[
            str, tuple[int, Any]
        ] = {}  # where, and the Tune trial (None: of an earlier launch)
        self._active: set[str] = set()
        self._full = rungs[-1]
        self._is_restored = False
        self._expects_no_more = False
        for report in past:
            self._remember(report)
        self._judge_rungs()
        if base is not None:
            self._know_base(base)

    def _remember(self, past: PastReport) -> None:
        rung = self._rungs.get(past.examples)
        if rung is None:
            return
        rung.add(past.trial_id, past.report)
        if past.then == "went on":
            rung.promoted.add(past.trial_id)
        elif past.then == "paused":
            self._paused[past.trial_id] = past.examples, None

    def _judge_rungs(self) -> None:
        """Find out anew which rungs decide."""
        if self._patient:
            later_ones = list(self._rungs.values())[1:]
            self._deciding -= {rung.examples for rung in later_ones}
            self._deciding |= {
                rung.examples for rung, next_one in pairwise(later_ones) if tells(rung, next_one)
            }

    def _know_base(self, nothing: Report) -> None:
        for rung in self._rungs.values():
            rung.compare_with(nothing)

    def is_paused(self, trial: Any) -> bool:
        """Whether a Tune trial is paused, or will be once its checkpoint is written."""
        return trial_name(trial) in self._paused

    @property
    def has_room(self) -> bool:
        """Whether a worker is free for a trial that nobody has asked for yet."""
        return len(self._active) < self._workers()

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """A new trial takes a worker; one of an earlier launch is no longer only paused."""
        self._active.add(trial.trial_id)
        self._paused.pop(trial_name(trial), None)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: Mapping[str, Any]) -> str:
        """Continue or pause."""
        if result.get("base_example_losses"):
            self._know_base(base_report_of(result))
        rung = self._rungs.get(result.get("examples_seen", 0))
        if rung is None or self._exempt(trial):
            return str(TrialScheduler.CONTINUE)
        name = trial_name(trial)
        rung.add(name, report_of(result))
        if rung is not next(iter(self._rungs.values())):  # the first has nothing to prove, and proves nothing
            self._judge_rungs()
        if rung.examples == self._full or name in self._candidates(rung):
            rung.promoted.add(name)
            return str(TrialScheduler.CONTINUE)
        self._paused[name] = rung.examples, trial
        self._active.discard(trial.trial_id)
        return str(TrialScheduler.PAUSE)

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        """A paused trial that has become one of the best, else the next new one."""
        trials = tune_controller.get_trials()
        if self._is_restored:
            self._find_paused(trials)
        chosen = self._take_promoted() or next((t for t in trials if t.status == Trial.PENDING), None)
        if chosen is None and not self._active and tune_controller.search_alg.is_finished():
            self.expect_no_more()
            chosen = self._take_promoted()
            if chosen is None:
                self._end_paused(tune_controller)
        return chosen

    def _take_promoted(self) -> Any:
        promoted = self._promote(of_earlier_launch=False) if self.has_room else None
        if promoted is not None:
            self._active.add(promoted.trial_id)
        return promoted

    def revive(self) -> str | None:
        """A paused trial of an earlier launch that has become one of the best; it counts as going on from now."""
        return self._promote(of_earlier_launch=True) if self.has_room else None

    def wants_promotion(self) -> bool:
        """Whether a paused trial is to go on before anything new is started."""
        return self._next_promotion(of_earlier_launch=False) is not None

    @property
    def is_idle(self) -> bool:
        """Whether no trial runs, waits for a worker, or is still saving before its pause."""
        return not self._active and all(_is_ready(trial) for _, trial in self._paused.values())

    def _promote(self, *, of_earlier_launch: bool) -> Any:
        found = self._next_promotion(of_earlier_launch=of_earlier_launch)
        if found is None:
            return None
        rung, name = found
        rung.promoted.add(name)
        _, trial = self._paused.pop(name)
        return name if of_earlier_launch else trial

    def _next_promotion(self, *, of_earlier_launch: bool) -> tuple[Rung, str] | None:
        """The best paused trial of the highest rung that has one among its best."""
        for rung in reversed(self._rungs.values()):
            for name in self._candidates(rung):
                examples, trial = self._paused.get(name, (None, None))
                if examples == rung.examples and (trial is None) == of_earlier_launch and _is_ready(trial):
                    return rung, name
        return None

    def _candidates(self, rung: Rung) -> list[str]:
        if rung.examples not in self._deciding:
            return rung.newest
        return rung.single_best if self._expects_no_more and not rung.promoted else rung.best

    def expect_no_more(self) -> None:
        """No new trial will come: from now on every rung sends on one trial at the least."""
        self._expects_no_more = True

    def _end_paused(self, tune_controller: Any) -> None:
        """Nothing new will come that could change the rungs: what is paused has been stopped for good."""
        for name, (_, trial) in list(self._paused.items()):
            if trial is not None and trial.status == Trial.PAUSED:
                del self._paused[name]
                tune_controller.stop_trial(trial)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: Mapping[str, Any]) -> None:
        """A worker is free again."""
        self._active.discard(trial.trial_id)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """A worker is free again."""
        self.on_trial_remove(tune_controller, trial)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        """The trial is gone; what it reported stays."""
        self._active.discard(trial.trial_id)
        self._paused.pop(trial_name(trial), None)

    def debug_string(self) -> str:
        """The rungs in one line."""
        rungs = (
            f"{r.examples}: {len(r.reports)} reported, {len(r.promoted)} went on"
            for r in self._rungs.values()
        )
        return "Pareto-ASHA; " + "; ".join(rungs)

    def save(self, checkpoint_path: str) -> None:
        """Write the state as JSON. A resumed sweep does not need it: its state follows from trials.jsonl (``past``)."""
        state = {
            "rungs": {str(examples): rung_state(rung) for examples, rung in self._rungs.items()},
            "paused": {name: examples for name, (examples, _) in self._paused.items()},
            "active": sorted(self._active),
        }
        Path(checkpoint_path).write_text(json.dumps(state), encoding="utf-8")

    def restore(self, checkpoint_path: str) -> None:
        """Go on from what `save` wrote; the paused trials are found among Tune's as soon as one is to be chosen."""
        state = json.loads(Path(checkpoint_path).read_text(encoding="utf-8"))
        for examples, rung in self._rungs.items():
            load_rung(rung, state["rungs"][str(examples)])
        self._judge_rungs()
        self._paused = {name: (examples, None) for name, examples in state["paused"].items()}
        self._active = set(state["active"])
        self._is_restored = True

    def _find_paused(self, trials: Sequence[Any]) -> None:
        """After a restore: which of Tune's trials are the paused ones."""
        for trial in trials:
            examples, known = self._paused.get(trial_name(trial), (0, trial))
            if known is None and trial.status == Trial.PAUSED:
                self._paused[trial_name(trial)] = examples, trial
        self._is_restored = False

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its set-up for a restore of its own, which lorafront does not use."""
        return {}


def _is_ready(trial: Any) -> bool:
    """A pause takes effect once the checkpoint is written."""
    return trial is None or trial.status == Trial.PAUSED


def report_of(result: Mapping[str, Any]) -> Report:
    """The report in a trial's result."""
    losses = result.get("example_losses")
    return Report(
        float(result["eval_loss"]),
        float(result.get("eval_loss_stderr") or 0.0),
        float(result["peak_memory_bytes"]),
        np.array(losses) if losses else None,
    )


def base_report_of(result: Mapping[str, Any]) -> Report:
    """The untouched model as a competitor: its loss, in hardly any memory (a byte, as its logarithm is taken)."""
    losses = np.array(result["base_example_losses"])
    return Report(float(result["base_eval_loss"]), float(result["base_eval_loss_stderr"]), 1.0, losses)
