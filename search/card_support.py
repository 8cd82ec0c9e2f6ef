"""Can the installed PyTorch run on this machine's GPUs: has it kernels for them, and is the driver new enough?

PyTorch itself only warns, and fails at the first kernel ("no kernel image is available for execution on the device") or
finds no GPU at all.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from search.errors import BrokenEnvironmentError

# Oldest NVIDIA driver by CUDA's major version (docs.nvidia.com, "CUDA Compatibility", table of minor version
# compatibility, read 2026-11-28).
_OLDEST_DRIVER = {12: 525, 13: 580}
# PyTorch's support matrix (RELEASE.md; pytorch issues 172352 and 190385): its CUDA 12.6 builds have kernels for 5.0 to
# 9.0 and end with torch 2.14; those for CUDA 13 have them for 7.5 to 12.0. Blackwell needs CUDA 12.8 or newer.
_CUDA_126 = 'install "torch>=2.8,<2.15" from PyTorch\'s own index of wheels, whl/cu126'
_CUDA_130 = 'install "torch>=2.9,<2.16" from PyTorch\'s own index of wheels, whl/cu130'
_ARCHITECTURE = re.compile(r"(sm|compute)_(\d+)(\d)([af]?)")
_ON_CPU = "or hide it with CUDA_VISIBLE_DEVICES"


def usable_gpus() -> int:
    """How many GPUs torch can use.

    Raises:
        BrokenEnvironmentError: there are some that this build of torch cannot use.
    """
    import torch

    if torch.cuda.is_available():
        problems = cards_without_kernels()
        if problems:
            raise BrokenEnvironmentError(f"{problems[0]}, {_ON_CPU}")
        return torch.cuda.device_count()
    problem = driver_problem(installed_driver(), torch.version.cuda)
    if problem and os.environ.get("CUDA_VISIBLE_DEVICES") not in ("", "-1"):
        raise BrokenEnvironmentError(f"{problem}; or set CUDA_VISIBLE_DEVICES= to train on the CPU")
    return 0


def cards_without_kernels() -> list[str]:
    """What is wrong with each GPU that torch sees and has no kernels for."""
    import torch

    built_for = torch.cuda.get_arch_list()
    found = []
    for index in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(index)
        problem = kernel_problem(card.name, (card.major, card.minor), built_for, torch.__version__)
        found += [problem] if problem else []
    return found


def kernel_problem(
    card: str, capability: tuple[int, int], built_for: Sequence[str], torch_version: str
) -> str | None:
    """Why a build of torch cannot run on a card and which one can, or None.

    Args:
        card: its name.
        capability: its compute capability, such as (12, 0).
        built_for: as `torch.cuda.get_arch_list` gives it: machine code (sm_) and code compiled on the spot (compute_).
        torch_version: of that build.

    >>> kernel_problem("H100", (9, 0), ["sm_80", "sm_90"], "2.13.0+cu130") is None
    True
    """
    parts = [match for name in built_for if (match := _ARCHITECTURE.fullmatch(name))]
    codes = [
        (kind, (int(major), int(minor)), suffix) for kind, major, minor, suffix in map(re.Match.groups, parts)
    ]
    if not codes or any(_runs(kind, target, suffix, capability) for kind, target, suffix in codes):
        return None  # no codes: a build without CUDA, or for other makers' cards
    too_old = capability < min(target for _, target, _ in codes)
    has = ", ".join(name for name in built_for)
    major, minor = capability
    return (
        f"torch {torch_version} has no kernels for {card} (compute capability {major}.{minor}; it has {has}): "
        + (_CUDA_126 if too_old or major < 10 else _CUDA_130)
    )


def _runs(kind: str, target: tuple[int, int], suffix: str, capability: tuple[int, int]) -> bool:
    """Whether a card runs code for ``target`` (CUDA C++ Programming Guide: binary and PTX compatibility).

    Machine code runs on the same major version from its minor one on, with ``a`` on exactly its own; what is compiled
    on the spot on everything newer.
    """
    if suffix == "a":
        return target == capability
    if kind == "compute" and not suffix:
        return target <= capability
    return target[0] == capability[0] and target[1] <= capability[1]


def driver_problem(driver: str | None, cuda: str | None) -> str | None:
    """Why a driver cannot run a build of torch and what to do, or None; versions such as "550.54.14" and "13.0".

    >>> driver_problem("580.65.06", "13.0") is None
    True
    """
    if driver is None or cuda is None:
        return None
    installed, needs = int(driver.partition(".")[0]), _OLDEST_DRIVER.get(int(cuda.partition(".")[0]), 0)
    if installed >= needs:
        return None
    other = f", or {_CUDA_126}" if installed >= _OLDEST_DRIVER[12] else ""
    return f"NVIDIA driver {driver} is too old for torch's CUDA {cuda}: update it to {needs} or newer{other}"


def installed_driver(file: Path = Path("/proc/driver/nvidia/version")) -> str | None:
    """The version of NVIDIA's kernel driver, or None where there is none."""
    try:
        found = re.search(
            r"Kernel Module\s.*?(\d+\.\d+(?:\.\d+)?)", file.read_text(encoding="utf-8", errors="replace")
        )
    except OSError:
        return None
    return found[1] if found else None
