"""Cards that a build of torch has no kernels for, and drivers that are too old for it."""

import sys
import types
from pathlib import Path
from typing import Any

import pytest

from search import node_check
from search.card_support import driver_problem, installed_driver, kernel_problem, usable_gpus
from search.errors import BrokenEnvironmentError

# What PyTorch's own wheels have: CUDA 12.6 as documented (pytorch issue 172352), the others as torch 2.8 and 2.11, 2.13
# and 2.15 from the Python package index say themselves.
CU126 = ["sm_50", "sm_60", "sm_70", "sm_75", "sm_80", "sm_86", "sm_90"]
CU130 = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"]
CU128 = ["sm_70", *CU130]
ON_THE_SPOT = [*CU130, "compute_120"]


@pytest.mark.parametrize(
    ("capability", "built_for"),
    [
        ((9, 0), CU126),
        ((6, 1), CU126),  # machine code of the same major version, from its minor one on
        ((8, 9), CU130),
        ((10, 3), CU128),
        ((12, 1), CU128),
        ((13, 0), ON_THE_SPOT),  # compiled on the spot
        ((9, 0), ["sm_90a"]),
        ((10, 3), ["sm_100f"]),
        ((9, 0), []),  # no CUDA in this build
        ((9, 4), ["gfx942"]),  # AMD's
    ],
)
def test_cards_that_can_run(capability: tuple[int, int], built_for: list[str]) -> None:
    assert kernel_problem("card", capability, built_for, "2.13.0") is None


@pytest.mark.parametrize(
    ("capability", "built_for", "wheel"),
    [
        ((12, 0), CU126, "cu130"),
        ((10, 0), CU126, "cu130"),
        ((13, 0), CU128, "cu130"),
        ((6, 1), CU130, "cu126"),
        ((7, 0), CU130, "cu126"),
        ((6, 1), CU128, "cu126"),
        ((9, 1), ["sm_90a"], "cu126"),
        ((8, 6), ["sm_87", "sm_90"], "cu126"),
    ],
)
def test_cards_that_cannot_run_are_told_the_wheel(
    capability: tuple[int, int], built_for: list[str], wheel: str
) -> None:
    problem = kernel_problem("GTX 1080", capability, built_for, "2.13.0+cu130")
    assert problem is not None
    major, minor = capability
    assert problem.startswith(
        f"torch 2.13.0+cu130 has no kernels for GTX 1080 (compute capability {major}.{minor};"
    )
    assert problem.endswith(f"whl/{wheel}")
    assert built_for[0] in problem


@pytest.mark.parametrize(
    ("driver", "cuda", "words"),
    [
        ("580.65.06", "13.0", None),
        ("595.10", "13.2", None),
        ("535.104.05", "12.6", None),
        (None, "13.0", None),
        ("470.82.01", None, None),
        ("550.54.14", "13.0", ["550.54.14", "CUDA 13.0", "580", "cu126"]),
        ("470.82.01", "12.8", ["470.82.01", "CUDA 12.8", "525"]),
    ],
)
def test_drivers(driver: str | None, cuda: str | None, words: list[str] | None) -> None:
    problem = driver_problem(driver, cuda)
    assert (problem is None) is (words is None)
    assert all(word in str(problem) for word in words or [])
    if driver == "470.82.01":
        assert "cu126" not in str(problem)


@pytest.mark.parametrize(
    ("text", "version"),
    [
        (
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.14  Thu Feb 22 01:44:30 UTC 2024\n",
            "550.54.14",
        ),
        (
            "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.159.04  Release Build\n",
            "580.159.04",
        ),
        ("something else\n", None),
    ],
)
def test_the_installed_driver_is_read_from_the_kernel(text: str, version: str | None, tmp_path: Path) -> None:
    (tmp_path / "version").write_text(text)
    assert installed_driver(tmp_path / "version") == version
    assert installed_driver(tmp_path / "missing") is None


def test_a_cluster_node_is_asked_without_opening_its_cards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text(
        "#!/bin/sh\necho '6.1, 8192, NVIDIA GeForce GTX 1080'\necho '9.0, 81559, NVIDIA H100, 80 GB'\n"
    )
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    names, sizes, capabilities = node_check._gpus()
    assert names == ("NVIDIA GeForce GTX 1080", "NVIDIA H100, 80 GB")
    assert sizes == (8192 * 2**20, 81559 * 2**20)
    assert capabilities == ((6, 1), (9, 0))
    flags = types.SimpleNamespace(_cuda_getArchFlags=lambda: " ".join(CU130))
    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(__version__="2.13.0", _C=flags))
    assert "no kernels for NVIDIA GeForce GTX 1080" in str(node_check._without_kernels(names, capabilities))
    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(__version__="2.13.0", _C=object()))
    assert node_check._without_kernels(names, capabilities) is None


def fake_torch(available: bool, built_for: list[str]) -> Any:
    """A module like torch with one GTX 1080."""
    card = types.SimpleNamespace(name="GTX 1080", major=6, minor=1)
    cuda = types.SimpleNamespace(
        is_available=lambda: available,
        device_count=lambda: 1,
        get_device_properties=lambda index: card,
        get_arch_list=lambda: built_for,
    )
    return types.SimpleNamespace(__version__="2.13.0", cuda=cuda, version=types.SimpleNamespace(cuda="13.0"))


def test_a_card_without_kernels_stops_the_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", fake_torch(True, CU126))
    assert usable_gpus() == 1
    monkeypatch.setitem(sys.modules, "torch", fake_torch(True, CU130))
    with pytest.raises(BrokenEnvironmentError, match=r"no kernels for GTX 1080 .*cu126, or hide it"):
        usable_gpus()


def test_an_old_driver_stops_the_sweep_unless_the_cards_are_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", fake_torch(False, []))
    monkeypatch.setattr("search.card_support.installed_driver", lambda: "550.54.14")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with pytest.raises(BrokenEnvironmentError, match=r"driver 550\.54\.14 is too old"):
        usable_gpus()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert usable_gpus() == 0
