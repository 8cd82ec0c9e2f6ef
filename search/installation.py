"""Is what training needs installed, in versions that we work with? Read from metadata, without importing any of it.

colossalai is none of the distribution's requirements, since its own cannot be met beside them (see pyproject.toml): pip
installs it in a step of its own, which is easily left out.
"""

import shlex
import sys
from importlib.metadata import PackageNotFoundError, requires, version
from typing import TYPE_CHECKING

from search.errors import BrokenEnvironmentError

if TYPE_CHECKING:
    from packaging.requirements import Requirement

COLOSSALAI = "colossalai==0.5.0"
# Without these, in the declared versions, no trial starts and no step can be traced.
_FOR_TRAINING = (
    "torch",
    "transformers",
    "peft",
    "einops",
    "galore-torch",
    "bitsandbytes",
    "ninja",
    "colossalai",
)


def check_installation() -> None:
    """Make sure that trials can be trained and traced here, in a few milliseconds.

    Raises:
        BrokenEnvironmentError: a package is missing or of another version; the text says how to get it.
    """
    wrong = [item for item in needed() if item.name in _FOR_TRAINING and mismatch(item)]
    if wrong:
        found = "; ".join(str(mismatch(item)) for item in wrong)
        raise BrokenEnvironmentError(f"{found}: {install_command(wrong)}")


def needed() -> "list[Requirement]":
    """What the distribution declares for this Python and platform, extras left out, and colossalai."""
    from packaging.requirements import Requirement

    declared = [Requirement(text) for text in (*_declared(), COLOSSALAI)]
    return [item for item in declared if item.marker is None or item.marker.evaluate({"extra": ""})]


def _declared() -> list[str]:
    try:
        return requires("lorafront") or []
    except PackageNotFoundError:  # a cluster's node, to which Ray ships the packages
        return []


def mismatch(requirement: "Requirement") -> str | None:
    """What is wrong with one requirement, or None."""
    needs = str(requirement.specifier) or "any version"
    try:
        found = version(requirement.name)
    except PackageNotFoundError:
        return f"{requirement.name} is not installed (needs {needs})"
    if requirement.specifier.contains(found, prereleases=True):
        return None
    return f"{requirement.name} is {found} (needs {needs})"


def is_installed(package: str) -> bool:
    """Asks the metadata: `find_spec("pip")` would make setuptools break ColossalAI's import (Python 3.11)."""
    try:
        return bool(version(package))
    except PackageNotFoundError:
        return False


def install_command(wrong: "list[Requirement]") -> str:
    """One shell line that installs these into this Python's environment, colossalai without what it asks for."""
    python = shlex.quote(sys.executable)
    install = f"{python} -m pip install" if is_installed("pip") else f"uv pip install --python {python}"
    others = [shlex.quote(str(item)) for item in wrong if item.name != "colossalai"]
    commands = [f"{install} {' '.join(others)}"] if others else []
    if len(others) < len(wrong):
        commands.append(f"{install} --no-deps {COLOSSALAI}")
    return " && ".join(commands)
