"""Running a command to be measured: its wall time, its processes' memory and CPU time, and an end to all of them."""

import os
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

SAMPLE_SECONDS = 1.0
# Reading a process's proportional size walks its page tables. Where that takes long, samples are further apart, so that
# they never cost more than this share of one core's time.
SAMPLING_SHARE = 0.03


@dataclass
class Measured:
    """What a command took.

    ``peak_pss_bytes`` is the largest sum of proportional set sizes over the command and all its descendants, sampled
    once a second (less often where that is costly): a page that several of them share counts once in all.
    ``peak_uss_bytes`` is that of their unique set sizes, which leaves shared pages out. ``cpu_seconds`` are user and
    system time of all processes as last seen, so up to a second of each process that ended is missing;
    ``root_cpu_seconds`` and ``peak_root_bytes`` (proportional) are the command's own process.
    """

    seconds: float = 0.0
    started: float = 0.0
    ended: float = 0.0
    returncode: int | None = None
    timed_out: bool = False
    peak_pss_bytes: int = 0
    peak_uss_bytes: int = 0
    cpu_seconds: float = 0.0
    root_cpu_seconds: float = 0.0
    peak_root_bytes: int = 0
    most_processes: int = 0
    samples: int = 0
    sampling_cpu_seconds: float = 0.0
    tail: str = ""
    load_before: float = 0.0
    _cpu: dict[tuple[int, float], float] = field(default_factory=dict, repr=False)

    def sample(self, root: psutil.Process) -> list[psutil.Process]:
        """Look at all processes once; returns them."""
        began = time.process_time()
        pss = uss = seen = 0
        processes = [root]
        with suppress(psutil.Error):
            processes += root.children(recursive=True)
        for process in processes:
            with suppress(psutil.Error):
                memory, times = process.memory_full_info(), process.cpu_times()
                pss, uss, seen = pss + memory.pss, uss + memory.uss, seen + 1
                if process is root:
                    self.peak_root_bytes = max(self.peak_root_bytes, memory.pss)
                self._cpu[process.pid, process.create_time()] = times.user + times.system
        self.peak_pss_bytes = max(self.peak_pss_bytes, pss)
        self.peak_uss_bytes = max(self.peak_uss_bytes, uss)
        self.most_processes = max(self.most_processes, seen)
        self.cpu_seconds = sum(self._cpu.values())
        self.root_cpu_seconds = sum(seconds for (pid, _), seconds in self._cpu.items() if pid == root.pid)
        self.samples += 1
        self.sampling_cpu_seconds += time.process_time() - began
        return processes

    @property
    def pause_seconds(self) -> float:
        """How long to wait for the next sample."""
        return max(SAMPLE_SECONDS, self.sampling_cpu_seconds / self.samples / SAMPLING_SHARE)


def run_measured(
    command: list[str], *, log: Path, env: dict[str, str], cwd: Path, timeout: float = 3600.0
) -> Measured:
    """Run ``command`` in a session of its own, output into ``log``. Whatever it leaves running is killed by its pid."""
    measured, known = Measured(load_before=os.getloadavg()[0]), {}
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        measured.started = time.time()
        began = time.perf_counter()
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=env, cwd=cwd, start_new_session=True
        )
        try:
            root = psutil.Process(process.pid)
            while process.poll() is None and not measured.timed_out:
                known |= {p.pid: p for p in measured.sample(root)}
                with suppress(subprocess.TimeoutExpired):
                    process.wait(measured.pause_seconds)
                measured.timed_out = time.perf_counter() - began > timeout
            measured.seconds = time.perf_counter() - began
            measured.ended = time.time()
        finally:
            kill(process, list(known.values()))
    measured.returncode = process.returncode
    measured.tail = "\n".join(log.read_text(errors="replace").splitlines()[-25:])
    return measured


def kill(process: "subprocess.Popen[bytes]", descendants: list[psutil.Process]) -> None:
    """End a command and what it started; psutil compares start times, so a pid used anew is left alone."""
    with suppress(OSError):
        os.killpg(process.pid, signal.SIGKILL)
    for descendant in descendants:
        with suppress(psutil.Error):
            descendant.kill()
    process.wait()
    patience = time.monotonic() + 10.0
    while any(map(_is_alive, descendants)) and time.monotonic() < patience:
        time.sleep(0.05)


def _is_alive(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False
