"""Several devices for one trial: a process per device, inside the trial's placement group, warm between trials.

The group takes the calls that a single `trainables.worker.Worker` takes. It begins to exist with the first trial; when
one of its processes dies, hangs or fails alone, all of them are ended, and the next trial begins with new ones.
"""

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray.util.placement_group import get_current_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from search.errors import OutOfMemoryError, WorkerLostError
from trainables.group_member import GroupMember, PeerError, Whereabouts, read_files, write_files
from trainables.settings import ExecutionSettings, TrialSpec
from trainables.worker_log import log_tail

if TYPE_CHECKING:
    from trainables.data import PreparedData

# After so long a collective operation fails: torch's own limit for NCCL (torch.distributed, default_pg_nccl_timeout).
COLLECTIVE_TIMEOUT_S = 600.0
# For the processes to start and find each other. Assumed: imports take 10 s, from shared disks more.
START_TIMEOUT_S = 300.0
# How long the others get to answer once one has failed: their errors tell who failed first.
GRACE_S = 5.0
# What the devices differ in; the worst one's figures stand for the trial.
_MEMORY_FACTS = ("peak_memory_bytes", "reserved_memory_bytes", "outside_allocator_bytes", "peak_operator")
_OWN_SHARE = 0.01  # of a core: the trial itself only waits


def bundles(devices: int, gpu: bool, cpus: int = 1) -> list[dict[str, float]]:
    """The bundles of a trial's placement group: one for the trial itself, then ``cpus`` cores for each device.

    The trial's own share is taken from the first device's, so that it all fits where there are just as many cores.

    >>> bundles(2, gpu=False)
    [{'CPU': 0.01}, {'CPU': 0.99}, {'CPU': 1}]
    """
    cores = [cpus - _OWN_SHARE] + [cpus] * (devices - 1)
    return [{"CPU": _OWN_SHARE}] + [{"CPU": n, "GPU": 1} if gpu else {"CPU": n} for n in cores]


class WorkerGroup:
    """The workers of one Tune actor's trials.

    Args:
        data: of the sweep.
        execution: whose ``devices_per_trial`` is the number of processes.
        collective_timeout_s: after which processes stop waiting for one that hangs.
    """

    def __init__(
        self,
        data: "PreparedData",
        execution: ExecutionSettings,
        collective_timeout_s: float = COLLECTIVE_TIMEOUT_S,
    ) -> None:
        self._data, self._execution, self._timeout_s = ray.put(data), execution, collective_timeout_s
        self._members: list[Any] = []
        self._where: list[Whereabouts] = []
        self._facts: dict[str, Any] = {}

    def begin(self, spec: TrialSpec) -> None:
        """Get ready for a trial, with new processes if there are none.

        Raises:
            LorafrontError: as the other methods that train.
        """
        self._facts = {}
        if not self._members:
            self._start()
        self._ask("load_base", spec)
        self._ask("begin", spec)

    def train_rung(self) -> dict[str, Any]:
        """Train to the next rung: the first process's result, with the memory of the device that needed most.

        Raises:
            WorkerLostError: a process died, or the others waited too long for it. All are ended.
            TrialError: the trial cannot go on. The processes go on if all of them said the same.
        """
        results: list[dict[str, Any]] = self._ask("train_rung")
        worst = max(results, key=lambda result: result["peak_memory_bytes"])
        self._facts = {name: worst[name] for name in _MEMORY_FACTS if name in worst}
        return results[0] | self._facts

    def save(self, folder: Path) -> None:
        """Write the trial's checkpoint into ``folder``, each file once."""
        for files in self._ask("save", self._facts):
            write_files(files, folder)

    def load(self, folder: Path) -> None:
        """Go on from a checkpoint of the trial that was begun."""
        self._ask("load", ray.put(read_files(folder)))

    def end(self) -> None:
        """End the processes, whatever they are doing."""
        for member in self._members:
            ray.kill(member)
        self._members, self._where = [], []

    @property
    def pids(self) -> list[int]:
        """The processes, first to last; none before the first trial and after a failure."""
        return [where.pid for where in self._where]

    def _start(self) -> None:
        placement = get_current_placement_group()
        for rank in range(self._execution.devices_per_trial):
            self._members.append(self._create(rank, placement))
        try:
            self._where = self._ask("prepare", timeout_s=START_TIMEOUT_S)
            address = self._where[0].address
            port = self._call(self._members[:1], "open_store", address, timeout_s=START_TIMEOUT_S)[0]
            self._ask("join", address, port, self._timeout_s, timeout_s=START_TIMEOUT_S)
        except Exception:
            self.end()
            raise

    def _create(self, rank: int, placement: Any) -> Any:
        on_gpu = "GPU" in ray.cluster_resources()
        bundle = placement.bundle_specs[rank + 1] if placement else bundles(1, on_gpu)[1]
        strategy = PlacementGroupSchedulingStrategy(placement, rank + 1) if placement else None
        options = {"num_cpus": bundle.get("CPU", 1), "num_gpus": bundle.get("GPU", 0)}
        if strategy:
            options["scheduling_strategy"] = strategy
        return ray.remote(GroupMember).options(**options).remote(rank, self._data, self._execution)

    def _ask(self, method: str, *arguments: Any, timeout_s: float | None = None) -> list[Any]:
        return self._call(self._members, method, *arguments, timeout_s=timeout_s)

    def _call(
        self, members: Sequence[Any], method: str, *arguments: Any, timeout_s: float | None = None
    ) -> list[Any]:
        """Every process's answer, in order."""
        asked = [getattr(member, method).remote(*arguments) for member in members]
        answers, errors = _gather(asked, timeout_s)
        if len(answers) == len(asked):
            return [answers[rank] for rank in range(len(asked))]
        raise self._failure(method, answers, errors, len(asked))

    def _failure(
        self, method: str, answers: dict[int, Any], errors: dict[int, Exception], asked: int
    ) -> Exception:
        """What to say of the errors, by rank; ends the processes unless all of them failed alike."""
        where, devices = self._where, self._execution.devices_per_trial
        dead = [rank for rank, error in errors.items() if isinstance(error, ray.exceptions.RayActorError)]
        own = [e for rank, e in errors.items() if rank not in dead and not isinstance(e, PeerError)]
        # Memory may have run out anywhere in a step, so that operations of some processes are left unanswered.
        alike = len(own) == asked and len({(type(error), str(error)) for error in own}) == 1
        if alike and not isinstance(own[0], OutOfMemoryError):
            return own[0]
        self.end()
        if dead:
            how = _last_words(where, dead[0]) or " without a message (killed, or out of host memory)"
            return WorkerLostError(f"worker {dead[0]} of {devices} died{how}")
        if own:
            return next((error for error in own if isinstance(error, OutOfMemoryError)), own[0])
        silent = [rank for rank in range(asked) if rank not in answers and rank not in errors]
        waited = next((f": {error}" for error in errors.values()), "")
        if not silent:
            return WorkerLostError(f"the workers lost each other{waited}{_last_words(where, 0)}")
        what = f"worker {silent[0]} of {devices} hangs ({method}{waited})"
        return WorkerLostError(what + _last_words(where, silent[0]))


def _last_words(where: Sequence[Whereabouts], rank: int) -> str:
    if rank >= len(where):
        return " before it had started"
    tail = log_tail(where[rank].log, where[rank].node_id)
    return f"; its log ends with: {tail}" if tail else ""


def _gather(asked: list[Any], timeout_s: float | None) -> tuple[dict[int, Any], dict[int, Exception]]:
    """Answers and errors by rank, waiting for all, or, once one is an error, only a little longer."""
    answers: dict[int, Any] = {}
    errors: dict[int, Exception] = {}
    waiting = {answer: rank for rank, answer in enumerate(asked)}
    deadline = math.inf if timeout_s is None else time.monotonic() + timeout_s
    while waiting:
        left = None if deadline == math.inf else max(0.0, deadline - time.monotonic())
        ready, _ = ray.wait(list(waiting), timeout=left)
        if not ready:
            break
        rank = waiting.pop(ready[0])
        try:
            answers[rank] = ray.get(ready[0])
        except Exception as error:
            errors[rank] = error.cause if isinstance(error, ray.exceptions.RayTaskError) else error
            deadline = min(deadline, time.monotonic() + GRACE_S)
    return answers, errors
