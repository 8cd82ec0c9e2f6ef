"""What became of a trial whose worker raised or died, as Ray Tune wrote it down."""

import re
from pathlib import Path
from typing import Any

_DIED = "the worker process died (killed, out of host memory, or crashed)"
_LOW_MEMORY = "Ray killed the worker process because its machine ran low on memory"
# Ray's words where a process, or its whole node, is gone.
_DEATHS = (
    "worker process has died",
    "Worker unexpectedly exits",
    "node has died",
    "killed by `ray.kill`",
    "node was",
    "actor is temporarily unavailable",
)
# The class in front of one of our own errors, whose text says enough.
_OWN_ERROR = re.compile(r"^search\.errors\.\w+: ")


def last_line(error: BaseException | str) -> str:
    """The last line of an error's text: what a person needs of a remote traceback."""
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__


def error_text(trial: Any) -> str:
    """What Tune wrote down of a trial's newest error; empty if nothing."""
    try:
        return Path(trial.error_file).read_text(encoding="utf-8").rpartition("Failure # ")[2]
    except (OSError, TypeError):
        return ""


def describe_failure(trial: Any) -> str:
    """The reason in one line."""
    text = error_text(trial)
    reason = last_line(text)
    if _OWN_ERROR.match(reason):
        reason = _OWN_ERROR.sub("", reason)
    elif "low on memory" in text:
        reason = _LOW_MEMORY
    elif not text or any(words in text for words in _DEATHS):
        reason = _DIED
    failures = trial.run_metadata.num_failures
    times = "twice" if failures == 2 else f"{failures} times"
    return f"{times}: {reason}" if failures > 1 else reason
