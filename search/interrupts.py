"""Ctrl-C and SIGTERM: the first one stops a sweep once what is being saved is saved, the second one at once."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn, Self

SIGNALS = (signal.SIGINT, signal.SIGTERM)
EXIT_CODE = 128 + signal.SIGINT  # as shells say it


class Interrupts:
    """Takes the interrupts of this process while it is entered.

    Between `heed`'s beginning and end the first one only sets ``requested``. One that comes outside, where no trial
    runs and nothing is to be saved, or a second one, ends this process and all that it has started.

    Args:
        last_words: what is printed on stderr before the process is ended at once: how to go on.
        restore_terminal: called before that.
    """

    def __init__(self, last_words: str, restore_terminal: Callable[[], None] = lambda: None) -> None:
        self._last_words, self._restore_terminal = last_words, restore_terminal
        self.requested = False
        self._is_heeded = False
        self._earlier: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self._earlier = {number: signal.getsignal(number) for number in SIGNALS}
        self.take_over()
        return self

    def __exit__(self, *exception: Any) -> None:
        for number, handler in self._earlier.items():
            signal.signal(number, handler)

    def take_over(self) -> None:
        """Take the signals, again where somebody else took them: starting Ray takes SIGTERM."""
        for number in SIGNALS:
            signal.signal(number, self._handle)

    @contextmanager
    def heed(self) -> Iterator[None]:
        """Somebody watches ``requested`` here."""
        self._is_heeded = True
        try:
            yield
        finally:
            self._is_heeded = False

    def _handle(self, number: int, frame: Any) -> None:
        if self.requested or not self._is_heeded:
            self.end_at_once()
        self.requested = True
        _say("stopping: what was measured is kept. Once more stops at once.")

    def end_at_once(self, words: str = "", code: int = EXIT_CODE) -> NoReturn:
        """End this process and all that it has started, saying how to go on, or other ``words``."""
        try:
            self._restore_terminal()
            kill_descendants()
            _say(words or self._last_words)
        finally:
            os._exit(code)


def _say(text: str) -> None:
    """A line on stderr, past Python's buffers, which may be in use where a signal comes in."""
    os.write(2, f"{text}\n".encode())


def kill_descendants() -> None:
    """Kill every process that this one has started, and those that they have: Ray's on this machine, and its workers."""
    import psutil

    for process in psutil.Process().children(recursive=True):
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
