"""`lorafront doctor`: can this machine and installation run a sweep, and what to do if not."""

import platform
import shutil
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.metadata import metadata
from typing import TYPE_CHECKING

from search.environment import available_memory_bytes, cpu_budget, disable_telemetry
from search.installation import install_command, is_installed, mismatch, needed
from search.units import GIB, format_memory

if TYPE_CHECKING:
    from rich.console import Console

# The default sweep's model, its conversion and run folder take well below 2 GiB; its trials ran in 4 GiB
# (both assumed from the profile's "2 cores, 8 GiB"). Less is a warning, not a failure.
LOW_DISK_BYTES = 2 * GIB
LOW_MEMORY_BYTES = 4 * GIB
_REINSTALL = "install lorafront again with the README's command, in a fresh virtual environment"


@dataclass(frozen=True)
class Check:
    """One finding. ``ok`` None is a warning; ``advice`` says what to do unless all is well."""

    name: str
    ok: bool | None
    detail: str
    advice: str = ""


def run_checks() -> list[Check]:
    """All checks, lightest first: about 15 s, no downloads. A check that raises is a failed one."""
    from search import doctor_libraries as libraries

    disable_telemetry()  # before any check imports Ray

    checks: list[tuple[str, Callable[[], Check]]] = [
        ("Python", check_python),
        ("packages", check_packages),
        ("memory", check_memory),
        ("cache", check_cache),
        ("base model", check_base_model),
        ("network", libraries.check_loopback),
        ("PyTorch", libraries.check_torch),
        ("ColossalAI", libraries.check_colossalai),
        ("Ray", libraries.check_ray),
    ]
    return [guarded(name, check) for name, check in checks]


def guarded(name: str, check: Callable[[], Check]) -> Check:
    """What ``check`` finds, or a failed check that says what it raised."""
    try:
        return check()
    except Exception as error:  # a broken library may raise anything
        reason = next((line for line in str(error).splitlines() if line.strip()), "")
        return Check(name, False, f"{type(error).__name__}: {reason.strip()}", _REINSTALL)


def print_checks(checks: Iterable[Check], console: "Console") -> None:
    """One row per check, with advice below those that are not well."""
    from rich.table import Table
    from rich.text import Text

    marks = {True: Text("ok", "green"), None: Text("warning", "yellow"), False: Text("failed", "bold red")}
    table = Table(box=None, show_header=False, pad_edge=False)
    for check in checks:
        detail = Text(check.detail)
        if check.advice and check.ok is not True:
            detail.append(f"\n{check.advice}", "italic")
        table.add_row(marks[check.ok], Text(check.name, "bold"), detail)
    console.print(table)


def check_python() -> Check:
    """Python's version against the range that the distribution declares."""
    from packaging.specifiers import SpecifierSet

    declared = metadata("lorafront")["Requires-Python"]
    found = platform.python_version()
    ok = SpecifierSet(declared).contains(found, prereleases=True)
    return Check(
        "Python",
        ok,
        f"{found} (needs {declared})",
        "make a virtual environment with Python 3.11, 3.12 or 3.13",
    )


def check_packages() -> Check:
    """Installed packages against what the distribution declares, and colossalai, which it cannot declare."""
    all_needed = needed()
    wrong = [item for item in all_needed if mismatch(item)]
    if wrong:
        detail = "; ".join(str(mismatch(item)) for item in wrong)
        return Check("packages", False, detail, f"run: {install_command(wrong)}")
    return Check("packages", True, f"all {len(all_needed)} have the versions that lorafront needs")


def check_memory() -> Check:
    """Cores and free host memory, control group limits respected."""
    free = available_memory_bytes()
    advice = "close other programs, or run one trial at a time with --concurrent 1"
    detail = f"{format_memory(free)} free, {cpu_budget()} cores"
    return Check("memory", True if free >= LOW_MEMORY_BYTES else None, detail, advice)


def check_cache() -> Check:
    """Whether the folder for models and data can be written, and its disk has room."""
    from trainables.model_cache import cache_root

    folder = cache_root()
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    advice = "set LORAFRONT_CACHE to a folder on a disk with room"
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        return Check("cache", False, f"{folder} cannot be written: {error.strerror}", advice)
    free = shutil.disk_usage(existing).free
    detail = f"{folder}, {format_memory(free)} free on its disk"
    return Check("cache", True if free >= LOW_DISK_BYTES else None, detail, advice)


def check_base_model() -> Check:
    """Whether the default base model is on this machine, or could be fetched with pip."""
    from search.config import DEFAULT_SIZE
    from search.sizes import load_profile
    from trainables.model_cache import ModelCache, cache_root

    profile = load_profile(DEFAULT_SIZE)
    if ModelCache(cache_root())._find(profile.base_model, profile.base_model_sha256):
        return Check("base model", True, f"{DEFAULT_SIZE} is in the cache")
    if not is_installed("pip"):
        detail = f"{DEFAULT_SIZE} is not in the cache, and this environment has no pip to fetch it with"
        return Check("base model", False, detail, "run: python -m ensurepip")
    return Check("base model", True, f"{DEFAULT_SIZE} is not in the cache yet: the first sweep fetches it")
