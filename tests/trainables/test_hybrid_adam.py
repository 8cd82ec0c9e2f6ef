"""The C++ flags that ColossalAI compiles HybridAdam's host part with."""

from collections.abc import Iterator
from typing import Any

import pytest
from colossalai.kernel.extensions import CpuAdamArmExtension, CpuAdamX86Extension

from trainables.hybrid_adam import leave_standard_to_torch

EXTENSIONS = (CpuAdamX86Extension, CpuAdamArmExtension)


@pytest.fixture(autouse=True)
def untouched() -> Iterator[None]:
    """ColossalAI's own methods before and after."""
    kept = [(cls, name, getattr(cls, name)) for cls in EXTENSIONS for name in ("cxx_flags", "nvcc_flags")]
    for cls, name, method in kept:
        setattr(cls, name, getattr(method, "__wrapped__", method))
    yield
    for cls, name, method in kept:
        setattr(cls, name, method)


def standards(cls: Any) -> list[str]:
    return [flag for flag in cls().cxx_flags() if flag.startswith("-std=")]


@pytest.mark.parametrize("cls", EXTENSIONS)
@pytest.mark.parametrize(
    ("torch_version", "named"),
    [("2.8.0", True), ("2.13.0+cpu", True), ("2.14.0+cu130", False), ("2.15.0", False)],
)
def test_no_standard_is_named_where_torch_needs_its_own(cls: Any, torch_version: str, named: bool) -> None:
    others = [flag for flag in cls().cxx_flags() if not flag.startswith("-std=")]
    for _ in range(2):
        leave_standard_to_torch(torch_version)
    assert bool(standards(cls)) is named
    assert [flag for flag in cls().cxx_flags() if not flag.startswith("-std=")] == others
    assert "-fopenmp" in others or cls is CpuAdamArmExtension
