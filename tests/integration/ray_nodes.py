"""Real Ray nodes on this machine, each a process tree of its own that can be killed as a machine is."""

import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psutil

RAY = str(Path(sys.executable).with_name("ray"))
# This machine's address other than loopback, where Ray has no clusters; empty on a machine without.
HOST = next(
    (
        each.address
        for addresses in psutil.net_if_addrs().values()
        for each in addresses
        if each.family == socket.AF_INET and not each.address.startswith("127.")
    ),
    "",
)
_STORE = str(80 * 2**20)  # bytes of shared memory for a node's objects, the least that Ray takes


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


class RayNodes:
    """A cluster on this machine: a head without cores, and nodes that are added and killed.

    Args:
        folder: for Ray's files; its path must be short, as sockets lie in it.
        environment: of all nodes.
        head: further options of the head.
        port: of the head; any free one.
    """

    def __init__(
        self, folder: Path, environment: dict[str, str], *head: str, port: int | None = None
    ) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        port = port or free_port()
        self.address = f"{HOST}:{port}"
        self.environment = {
            **environment,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_raylet_start_wait_time_s": "120",  # on a machine that has other things to do
            "RAY_health_check_period_ms": "500",  # a killed node is noticed soon
            "RAY_health_check_failure_threshold": "4",
        }
        self._processes: list[psutil.Popen] = []
        head = head or ("--num-cpus=0", "--include-dashboard=false")
        self.start(["--head", f"--port={port}", f"--temp-dir={folder}", *head])

    def start(self, options: Sequence[str], prefix: Sequence[str] = (), **environment: str) -> psutil.Popen:
        """A `ray start` that stays, once it says that it runs; ``prefix`` is a command to run it in."""
        command = [*prefix, RAY, "start", "--block", "--disable-usage-stats", f"--node-ip-address={HOST}"]
        command += ["--num-gpus=0", f"--object-store-memory={_STORE}", *options]
        output = self.folder / f"{len(self._processes)}.log"
        with output.open("w") as log:
            process = psutil.Popen(
                command,
                env={**self.environment, **environment},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._processes.append(process)
        while "Ray runtime started" not in output.read_text(errors="replace"):
            assert process.poll() is None, output.read_text(errors="replace")
            time.sleep(0.2)
        return process

    def add(self, cpus: int = 1, prefix: Sequence[str] = (), **environment: str) -> psutil.Popen:
        """One more node."""
        return self.start([f"--address={self.address}", f"--num-cpus={cpus}"], prefix, **environment)

    @staticmethod
    def kill(process: psutil.Popen) -> None:
        """What pulling a machine's plug does to its processes."""
        for _ in range(2):  # a process may have been born meanwhile
            for each in [*process.children(recursive=True), process] if process.is_running() else []:
                try:
                    each.kill()
                except psutil.NoSuchProcess:
                    continue
        process.wait(30)

    def close(self) -> None:
        """Kill every node, the head last."""
        for process in reversed(self._processes):
            if process.poll() is None:
                self.kill(process)


def training_processes(node: psutil.Popen) -> list[psutil.Process]:
    """Those in which a trial is being trained on a node: Ray names its workers after what they do."""
    found = []
    for each in node.children(recursive=True):
        with suppress(psutil.Error):
            if each.cmdline()[:1] == ["ray::ResourceTrainable.train"]:
                found.append(each)
    return found


def own_environment(cwd: Path) -> dict[str, str]:
    """What nodes start with: as a command of the tests, but nobody else's Ray, and not kept on loopback."""
    from search.environment import LOOPBACK_ONLY
    from tests.integration.conftest import environment

    return {
        name: value for name, value in environment(cwd).items() if name not in ("RAY_ADDRESS", LOOPBACK_ONLY)
    }
