"""One simulated run: its trials, and the record that scores are computed from."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tests.benchmarks.replay.curves import Row

PENDING, RUNNING, PAUSED = "PENDING", "RUNNING", "PAUSED"
TERMINATED, ERROR = "TERMINATED", "ERROR"


@dataclass(eq=False)
class SimulatedTrial:
    """What schedulers use of `ray.tune.experiment.Trial`, and where it stands in its curve."""

    trial_id: str
    config: dict[str, Any]
    row_index: int
    row: Row
    status: str = PENDING
    last_result: dict[str, Any] = field(default_factory=dict)
    reached: int = 0  # rungs
    step: int = 0  # number of the step under way; an event of another step was cancelled
    segment: int = -1  # of the step under way
    is_saving: bool = False

    def is_finished(self) -> bool:
        """Whether it ended, well or badly."""
        return self.status in (TERMINATED, ERROR)

    def __repr__(self) -> str:
        return f"{self.trial_id} ({self.status} after {self.reached} rungs)"


class Completion(NamedTuple):
    """A trial that reached the full resource: when, near which recorded row, and with which ``(loss, bytes)``."""

    time: float
    row_index: int
    point: tuple[float, float]


@dataclass
class Run:
    """What happened. Times are virtual seconds.

    ``completions`` are in order. ``segments`` are ``(start, end, training seconds)`` of every step on a worker; an
    interrupted one ends where it was cut off. ``rows`` are the recorded rows that answered, by index.
    ``stranded`` counts trials that were still paused when nothing was left to run: Tune would wait for ever.
    """

    workers: int
    completions: list[Completion] = field(default_factory=list)
    segments: list[tuple[float, float, float]] = field(default_factory=list)
    trials: int = 0
    rows: set[int] = field(default_factory=set)
    resumed: int = 0
    stranded: int = 0
    end: float = 0.0

    def train_seconds(self, times: list[float]) -> NDArray[np.float64]:
        """Training seconds spent by all workers up to each time, steps under way pro rata."""
        starts, ends, seconds = np.array(self.segments or [(0.0, 1.0, 0.0)]).T
        lengths = np.maximum(ends - starts, 1e-12)
        shares = np.clip((np.array(times)[:, None] - starts) / lengths, 0.0, 1.0)
        spent: NDArray[np.float64] = shares @ seconds
        return spent


def settings(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The searched settings of a trial's config: a plain one, or the one inside a `TrialSpec`."""
    inner: Mapping[str, Any] = config["spec"]["config"] if "spec" in config else config
    return inner


def settings_id(trial: SimulatedTrial) -> str:
    """The trial's name in lorafront, where it has one."""
    return str(trial.config["spec"]["trial_id"]) if "spec" in trial.config else trial.trial_id
