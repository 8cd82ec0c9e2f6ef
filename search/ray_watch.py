"""Watching Ray's own processes on this machine: without them nothing goes on, and Ray itself says nothing of it."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

LOOK_SECONDS = 0.5
_PROCESSES = ("raylet", "gcs_server")


@contextmanager
def watch_ray(give_up: Callable[[str], None]) -> Iterator[None]:
    """While the body runs, call ``give_up``, from a thread, with the name of the first of Ray's processes that is gone.

    Its orphans, which would wait for it for minutes, are killed before. What this process has started is watched; of a
    cluster that was joined there is nothing.
    """
    import psutil

    children = psutil.Process().children()
    watched = {child.name(): child for child in children if child.name() in _PROCESSES}
    over = threading.Event()

    def look() -> None:
        while not over.wait(LOOK_SECONDS):
            gone = next((name for name, process in watched.items() if _is_gone(process)), None)
            if gone is not None:
                if "raylet" in watched:
                    _kill_workers(watched["raylet"].pid)
                return give_up(gone)

    threading.Thread(target=look, name="ray", daemon=True).start()
    try:
        yield
    finally:
        over.set()


def _is_gone(process: Any) -> bool:
    import psutil

    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def _kill_workers(raylet: int) -> None:
    """Kill the processes that the raylet has started, which are nobody's children once it is gone."""
    import psutil

    for process in psutil.process_iter():
        with suppress(psutil.Error):  # another user's, or gone meanwhile
            if process.environ().get("RAY_RAYLET_PID") == str(raylet):
                process.kill()
