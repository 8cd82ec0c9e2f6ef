"""Seconds of a program's parts, each without those of the parts that it calls."""

import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass
class Spent:
    """Calls of a part, and its seconds: CPU of the calling thread, and on the wall, waiting for a disk included."""

    calls: int = 0
    cpu_seconds: float = 0.0
    wall_seconds: float = 0.0


class Stopwatch:
    """Runs for one part at a time: a part called from within another one stops that one's clock. For one thread."""

    def __init__(self) -> None:
        self.parts: dict[str, Spent] = defaultdict(Spent)
        self._running: list[str] = []
        self._cpu = self._wall = 0.0

    def over(self, thing: Any, part: str, *methods: str) -> Any:
        """From now on some methods of an object count as a part. Returns the object."""
        for name in methods:
            setattr(thing, name, self.timed(part, getattr(thing, name)))
        return thing

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, counted as a part."""

        def call(*arguments: Any, **named: Any) -> Any:
            self._switch()
            self._running.append(part)
            self.parts[part].calls += 1
            try:
                return function(*arguments, **named)
            finally:
                self._switch()
                self._running.pop()

        return call

    def _switch(self) -> None:
        """Charge the time since the last switch to the part that ran."""
        cpu, wall = time.thread_time(), time.perf_counter()
        if self._running:
            spent = self.parts[self._running[-1]]
            spent.cpu_seconds += cpu - self._cpu
            spent.wall_seconds += wall - self._wall
        self._cpu, self._wall = cpu, wall
