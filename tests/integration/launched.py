"""A sweep started as a user does, in a session of its own as a terminal gives it, to be killed and interrupted."""

import os
import signal
import subprocess
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.integration.conftest import LORAFRONT, environment

WAIT_SECONDS = 900  # for a busy machine; nothing here asserts how long something takes


def wait_until(condition: Callable[[], Any]) -> None:
    """Wait until something is true, or fail."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


class Launched:
    """A running `lorafront sweep` or `resume`; ``more`` are environment variables."""

    def __init__(self, *arguments: object, cwd: Path, run: Path, **more: str) -> None:
        self.run, self._mark = run, uuid.uuid4().hex
        self.process = subprocess.Popen(
            [LORAFRONT, *map(str, arguments)],
            cwd=cwd,
            env=environment(cwd) | {"LORAFRONT_TEST_MARK": self._mark} | more,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def journal(self) -> str:
        path = self.run / "trials.jsonl"
        return path.read_text() if path.exists() else ""

    def wait_for(self, words: str, count: int = 1) -> None:
        """Wait until the journal holds so many of something."""
        wait_until(lambda: self.journal().count(words) >= count or self.process.poll() is not None)
        assert self.process.poll() is None, self.process.communicate()

    def wait_for_more(self, words: str, more: int = 1) -> None:
        self.wait_for(words, self.journal().count(words) + more)

    def send(self, number: signal.Signals) -> None:
        """To the whole foreground, as a terminal does with Ctrl-C."""
        os.killpg(self.process.pid, number)

    def interrupt(self, *, twice: bool) -> None:
        """Ctrl-C; two that come at once would be one signal."""
        self.send(signal.SIGINT)
        assert self.process.stderr is not None
        while twice and not self.process.stderr.readline().startswith("stopping"):
            assert self.process.poll() is None
        if twice:
            self.send(signal.SIGINT)

    def end(self) -> tuple[int, str, str]:
        """Wait for it: exit code, stdout, stderr."""
        stdout, stderr = self.process.communicate(timeout=WAIT_SECONDS)
        return self.process.returncode, stdout, stderr

    def processes(self) -> dict[int, str]:
        """All processes that this launch has started and that live, by id, with their command lines."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                is_ours = f"LORAFRONT_TEST_MARK={self._mark}".encode() in (folder / "environ").read_bytes()
                if is_ours and (folder / "stat").read_text().rpartition(")")[2].split()[0] != "Z":
                    found[int(folder.name)] = (folder / "cmdline").read_text()
            except OSError:
                continue
        return found

    def workers(self) -> list[int]:
        """The processes that run trials, by Ray's names for them; its own agents begin with ``ray::``, too."""
        names = ("ray::LoraTrial", "ray::ResourceTrainable")
        return [pid for pid, line in self.processes().items() if line.startswith(names)]
