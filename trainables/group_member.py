"""One of the processes that train a trial together: a warm `Worker` that joins a process group. Runs as a Ray actor."""

import gc
import os
import socket
import tempfile
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from search.errors import LorafrontError, TrialError
from trainables.settings import ExecutionSettings, TrialSpec

if TYPE_CHECKING:
    from trainables.data import PreparedData

T = TypeVar("T")


class PeerError(TrialError):
    """A collective operation failed: another process of the group died, hangs, or has failed before."""


class Whereabouts(NamedTuple):
    """Where a process runs, and the file that its standard error goes to (None where there is no telling)."""

    pid: int
    node_id: str
    address: str
    log: str | None


def first_line(error: BaseException) -> str:
    """The first line of an error's text."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "no message")


def interface_of(address: str) -> str | None:
    """The name of the network interface with ``address``."""
    import psutil

    interfaces = psutil.net_if_addrs().items()
    return next((name for name, own in interfaces if any(item.address == address for item in own)), None)


class GroupMember:
    """Process number ``rank`` of a trial's ``execution.devices_per_trial``.

    Files travel as bytes, as the trial's checkpoint folder may lie on another node.
    """

    def __init__(self, rank: int, data: "PreparedData", execution: ExecutionSettings) -> None:
        from search.environment import quiet_libraries

        quiet_libraries()
        self._rank, self._data, self._execution = rank, data, execution

    def prepare(self) -> Whereabouts:
        """Import what training needs, which takes seconds, and not the same everywhere; tells where this process runs.

        Apart from `join`, so that nobody waits in a collective operation for one whose disk is slow.
        """
        import ray

        import trainables.lean_imports  # noqa: F401
        from trainables.plugins import import_plugins
        from trainables.worker import Worker  # noqa: F401

        import_plugins()
        try:
            log = os.readlink("/proc/self/fd/2")
        except OSError:
            log = None
        node_id = ray.get_runtime_context().get_node_id()
        return Whereabouts(os.getpid(), node_id, ray.util.get_node_ip_address(), log)

    def open_store(self, address: str) -> int:
        """Start the store through which the group's processes find each other; returns its port.

        It listens at ``address`` only, which is this node's among the cluster's nodes.
        """
        from torch.distributed import TCPStore

        listener = socket.create_server((address, 0))
        port: int = listener.getsockname()[1]
        # The store closes the socket, so it gets one of its own. The libuv store takes none.
        self._store = TCPStore(
            address,
            port,
            is_master=True,
            wait_for_workers=False,
            master_listen_fd=os.dup(listener.fileno()),
            use_libuv=False,
        )
        listener.close()
        return port

    def join(self, address: str, port: int, timeout_s: float) -> None:
        """Join the group and get the worker ready. Collective, as all that trains: every process must be told.

        Args:
            address: of the first process's node.
            port: of its store.
            timeout_s: after which an operation that waits for another process fails.
        """
        _in_own_words(lambda: self._join(address, port, timeout_s))

    def _join(self, address: str, port: int, timeout_s: float) -> None:
        import ray
        import torch
        import torch.distributed as dist

        from trainables.worker import Worker

        interface = interface_of(ray.util.get_node_ip_address())
        for library in ("GLOO", "NCCL") if interface else ():
            os.environ.setdefault(f"{library}_SOCKET_IFNAME", str(interface))
        if self._rank > 0:
            self._store = dist.TCPStore(address, port, is_master=False, use_libuv=False)
        on_cuda = torch.cuda.is_available()
        if on_cuda:
            torch.cuda.set_device(0)  # Ray shows each process its own device only
        dist.init_process_group(
            "nccl" if on_cuda else "gloo",
            store=self._store,
            rank=self._rank,
            world_size=self._execution.devices_per_trial,
            timeout=timedelta(seconds=timeout_s),
        )
        self._worker = Worker(self._data, self._execution.threads, self._execution.eval_batch_size)
        gc.freeze()  # as one worker alone does

    def load_base(self, spec: TrialSpec) -> None:
        """End the last trial, and load the next one's base model unless it is the same. Not collective.

        Apart from `begin`, for the same reason.
        """

        def load() -> None:
            self._worker.end()
            self._worker.load_base(spec)

        _in_own_words(load)

    def begin(self, spec: TrialSpec) -> None:
        """Get ready for a trial. Collective."""
        _in_own_words(lambda: self._worker.begin(spec))

    def train_rung(self) -> dict[str, Any]:
        """Train to the next rung and evaluate there. Collective."""
        return _in_own_words(self._worker.train_rung)

    def save(self, facts: dict[str, Any]) -> dict[str, bytes]:
        """The files of a checkpoint that this process writes, by their paths in its folder."""
        with tempfile.TemporaryDirectory(prefix="lorafront-") as name:
            _in_own_words(lambda: self._worker.save(Path(name), facts))
            return read_files(Path(name))

    def load(self, files: dict[str, bytes]) -> None:
        """Go on from a checkpoint's files."""
        with tempfile.TemporaryDirectory(prefix="lorafront-") as name:
            write_files(files, Path(name))
            _in_own_words(lambda: self._worker.load(Path(name)))


def read_files(folder: Path) -> dict[str, bytes]:
    """The files below ``folder`` by their paths in it."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def write_files(files: dict[str, bytes], folder: Path) -> None:
    """Write files by their paths in ``folder``."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def _in_own_words(call: Callable[[], T]) -> T:
    """The call's result; its errors as lorafront's own, which pickle.

    Raises:
        PeerError: it failed for another process's sake.
        LorafrontError: what it raised itself, or a `TrialError` with type and first line of another error.
    """
    try:
        return call()
    except LorafrontError:
        raise
    except Exception as error:
        kind = PeerError if _is_collective(error) else TrialError
        raise kind(f"{type(error).__name__}: {first_line(error)}") from None


def _is_collective(error: Exception) -> bool:
    """Whether a collective operation raised it: NCCL has error classes, gloo raises a RuntimeError that names a file."""
    import torch.distributed as dist

    return isinstance(error, dist.DistError) or "gloo/" in str(error)
