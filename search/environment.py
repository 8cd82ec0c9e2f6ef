"""What a sweep runs on and with: software versions, cores, memory, concurrency; quiet, private libraries."""

import logging
import math
import os
import platform
import subprocess
import sys
import warnings
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from search.cgroups import cpu_quota, free_memory_bytes

RECORDED_PACKAGES = ("lorafront", "torch", "colossalai", "transformers", "peft", "ray", "optuna", "mlflow")
LOOPBACK_ONLY = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"  # "0": Ray stays on this machine
_GIT_SECONDS = 5.0


def software_versions() -> dict[str, str]:
    """Versions of Python and of the packages that shape a result, read without importing any of them."""
    return {"python": platform.python_version(), **{name: _version(name) for name in RECORDED_PACKAGES}}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def git_commit() -> str | None:
    """The commit of the checkout that this package runs from, ``-dirty`` when tracked files differ from it.

    None when it runs from elsewhere, an installed wheel inside another project's checkout for instance.
    """
    root = Path(__file__).resolve().parent.parent
    top = _git(root, "rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != root:
        return None
    return _git(
        root, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"
    )  # no tags: the bare hash


def _git(folder: Path, *arguments: str) -> str | None:
    """What a git command prints, or None if it fails."""
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=_GIT_SECONDS,
            env=environment,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def disable_telemetry() -> None:
    """Keep the libraries from phoning home, and Ray's ports on this machine. Call before importing them."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    if sys.platform == "linux":
        # Ray then takes 127.0.0.1 as a node address as it is; otherwise it listens on every interface.
        os.environ.setdefault(LOOPBACK_ONLY, "0")


def quiet_libraries() -> None:
    """Leave the terminal to the sweep's own progress, here and in the workers. Call before importing them."""
    if "PYTHONWARNINGS" not in os.environ:  # read when a process starts: for this one it is too late
        for category in (DeprecationWarning, FutureWarning, SyntaxWarning, UserWarning):
            warnings.simplefilter("ignore", category)
    for name, value in {
        "TOKENIZERS_PARALLELISM": "false",  # the tokenizer warns when Ray forks a process that has used it
        "TRANSFORMERS_VERBOSITY": "error",
        "DATASETS_VERBOSITY": "error",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TORCHDYNAMO_DISABLE": "1",  # bitsandbytes compiles functions as it is imported, which imports the compiler
        # SyntaxWarning: ColossalAI's docstrings have escapes that Python 3.12 and newer complain of as they compile them.
        "PYTHONWARNINGS": ",".join(
            f"ignore::{name}Warning" for name in ("Deprecation", "Future", "Syntax", "User")
        ),
    }.items():
        os.environ.setdefault(name, value)
    # Of a package with another kernel for evaluation, which training cannot use, and of 8-bit layers' rounding, which is
    # what they are for, in every layer of every step.
    for name in ("backends.cpu.ops", "autograd._functions"):
        logging.getLogger(f"bitsandbytes.{name}").setLevel(logging.ERROR)
    logging.getLogger("colossalai").addFilter(_is_error)  # its level is set anew whenever it is asked for


def _is_error(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR


def cpu_budget() -> int:
    """Cores that this process may use: its affinity, cut to the control group's quota, rounded up."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota()
    return affinity if quota is None else max(1, min(affinity, math.ceil(quota)))


def available_memory_bytes() -> int:
    """Host memory that can still be allocated without swapping, the control group's limit respected."""
    import psutil

    free = int(psutil.virtual_memory().available)
    limited = free_memory_bytes()
    return free if limited is None else min(free, limited)


def default_concurrency(
    trials: int,
    cores: int,
    gpus: int,
    devices_per_trial: int,
    bytes_per_trial: int,
    *,
    available_bytes: int | None = None,
) -> tuple[int, int]:
    """How many trials to run at a time, and with how many threads each; both at least 1.

    With GPUs: as many as the devices hold. On a CPU: one per core, but at most a quarter of all trials (2 at
    least), so that sampler and scheduler have results to learn from, and no more than host memory holds.

    Args:
        trials: in the whole sweep.
        cores: that all trials share.
        gpus: that all trials share; 0 trains on the CPU, where a device is a process.
        devices_per_trial: processes of one trial.
        bytes_per_trial: host memory of one trial at its peak, base model included.
        available_bytes: host memory for all trials; None asks this machine.

    >>> default_concurrency(16, cores=2, gpus=0, devices_per_trial=1, bytes_per_trial=1, available_bytes=9)
    (2, 1)
    """
    if gpus:
        concurrent = gpus // devices_per_trial
    else:
        available = available_memory_bytes() if available_bytes is None else available_bytes
        fitting = available // max(1, bytes_per_trial)
        concurrent = min(cores // devices_per_trial, max(2, trials // 4), fitting)
    concurrent = max(1, min(concurrent, trials))
    return concurrent, max(1, cores // (concurrent * devices_per_trial))
