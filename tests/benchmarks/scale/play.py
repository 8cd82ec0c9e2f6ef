"""Ray Tune's controller in virtual time with its callbacks, in the order of Ray 2.60's `tune_controller.py`.

A result goes to scheduler, searcher and callbacks in this order; its checkpoint is written next, also of the last
one, and what the scheduler decided is done after that. At every turn of the loop, which handles one event (a worker
that starts, a result, a checkpoint), callbacks hear `on_step_begin` and the scheduler may choose a trial.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from tests.benchmarks.replay.run import SimulatedTrial
from tests.benchmarks.replay.simulator import Simulator
from tests.benchmarks.replay.table import CurveTable


@dataclass(eq=False)
class Trial(SimulatedTrial):
    """What callbacks use of a Tune trial besides."""

    RUNNING = "RUNNING"
    checkpoint: Any = None


class DriverSimulator(Simulator):
    """Plays the controller for searcher, scheduler and callbacks.

    Args:
        callbacks: Ray Tune callbacks.
        checkpoints: the folder in which workers would write.
        examples: how many validation examples a result has the losses of; the table's are repeated.
    """

    make_trial = Trial

    def __init__(
        self,
        table: CurveTable,
        searcher: Any,
        scheduler: Any,
        workers: int,
        *,
        callbacks: Sequence[Any],
        checkpoints: str,
        examples: int,
        max_trials: float,
        clock: Callable[[float], None],
    ) -> None:
        super().__init__(table, searcher, scheduler, workers, max_trials=max_trials)
        self._callbacks, self._checkpoints, self._examples, self._clock = (
            callbacks,
            checkpoints,
            examples,
            clock,
        )
        self.events = self.turns = 0

    def _tell(self, hook: str, trial: Any, **more: Any) -> None:
        """One event: a turn of the loop, and the callbacks' hook for it."""
        self._clock(self.now)
        self._turn()
        self.events += 1
        for callback in self._callbacks:
            getattr(callback, hook)(iteration=self.turns, trials=self._trials, trial=trial, **more)

    def _turn(self) -> None:
        self.turns += 1
        for callback in self._callbacks:
            callback.on_step_begin(iteration=self.turns, trials=self._trials)
        # Tune asks at every turn, also with all workers busy. A choice here would be lost; without room there is none.
        if self.free == 0 and not self.scheduler.has_room:
            self.scheduler.choose_trial_to_run(self)

    def _start(self, trial: Any) -> None:
        super()._start(trial)
        self._tell("on_trial_start", trial)

    def _heard(self, trial: Any, result: dict[str, Any]) -> None:
        self._tell("on_trial_result", trial, result=result)
        trial.last_result = result
        if "failure" in result:
            return
        folder = f"{self._checkpoints}/{result['trial']}/checkpoint_{trial.reached - 1:06d}"
        trial.checkpoint = SimpleNamespace(path=folder)
        self._tell("on_trial_save", trial)

    def stop_trial(self, trial: Any) -> None:
        """End a trial of any status for good; of a paused one the callbacks hear, too."""
        if not trial.is_finished():
            super().stop_trial(trial)
            self._tell("on_trial_complete", trial)

    request_stop_trial = stop_trial

    def _next_result(self, trial: SimulatedTrial) -> dict[str, Any]:
        """With what else a worker reports."""
        result = super()._next_result(trial)
        if "failure" in result:
            return result
        repeat = -(-self._examples // len(result["example_losses"]))
        result["example_losses"] = _rounded(result["example_losses"], repeat, self._examples)
        # About the embedded default's tokens of an example; the loss while training is not recorded.
        speed = 90 * result["examples_seen"] / result["train_seconds"]
        result |= {"train_loss": result["eval_loss"], "tokens_per_second": round(speed, 2)}
        if trial.config["spec"].get("evaluate_base") and trial.reached == 1 and self.table.base:
            base = dict(self.table.base)
            base["example_losses"] = _rounded(base["example_losses"], repeat, self._examples)
            result |= {f"base_{name}": value for name, value in base.items()}
        return result


def _rounded(losses: Sequence[float], repeat: int, count: int) -> list[float]:
    """As `trainables.losses` reports them."""
    return [round(loss, 6) for loss in (*losses,) * repeat][:count]
