import importlib.metadata
import os
import socket
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from search import doctor, doctor_libraries, installation
from search.doctor import (
    Check,
    check_base_model,
    check_cache,
    check_memory,
    check_packages,
    guarded,
    print_checks,
)
from search.doctor_libraries import check_colossalai, check_loopback, check_ray, check_torch, cpu_bf16_flags
from search.errors import BrokenEnvironmentError
from search.units import GIB


def test_this_environment_has_the_declared_python_and_packages() -> None:
    assert doctor.check_python().ok
    assert check_packages().ok


def test_wrong_and_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    declared = [
        "torch<2.6,>=2.5",
        "peft",
        "gguf>=0.10",
        'pytest>=8; extra == "dev"',
        'x; python_version < "3"',
    ]
    installed = {"torch": "2.7.0", "peft": "0.13.2", "colossalai": "0.5.0", "pip": "26.0"}

    def version(name: str) -> str:
        if name not in installed:
            raise importlib.metadata.PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(installation, "requires", lambda name: declared)
    monkeypatch.setattr(installation, "version", version)
    check = check_packages()
    assert check.ok is False
    assert check.detail == "torch is 2.7.0 (needs <2.6,>=2.5); gguf is not installed (needs >=0.10)"
    assert "pip install 'torch<2.6,>=2.5' 'gguf>=0.10'" in check.advice
    del installed["colossalai"]
    assert "colossalai is not installed" in check_packages().detail
    assert "--no-deps colossalai==0.5.0" in check_packages().advice


def test_a_missing_colossalai_is_advised_of_before_it_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise BrokenEnvironmentError("colossalai is not installed (needs ==0.5.0): pip install it")

    monkeypatch.setattr(doctor_libraries, "check_installation", missing)
    found = check_colossalai()
    assert found == Check(
        "ColossalAI", False, "colossalai is not installed (needs ==0.5.0)", "run: pip install it"
    )


def test_another_python_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.platform, "python_version", lambda: "3.14.0")
    assert doctor.check_python().ok is False


@pytest.mark.parametrize(("free", "ok"), [(8 * GIB, True), (GIB, None)])
def test_little_memory_is_a_warning(free: int, ok: bool | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "available_memory_bytes", lambda: free)
    assert check_memory().ok is ok


def test_the_cache_is_checked_without_creating_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "LOW_DISK_BYTES", 0)
    monkeypatch.setenv("LORAFRONT_CACHE", str(tmp_path / "not" / "yet"))
    assert check_cache().ok is True
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(doctor, "LOW_DISK_BYTES", 2**80)
    assert check_cache().ok is None


def test_a_cache_that_cannot_be_written_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("")
    monkeypatch.setenv("LORAFRONT_CACHE", str(blocker))
    check = check_cache()
    assert check.ok is False
    assert "LORAFRONT_CACHE" in check.advice


def test_without_the_model_and_without_pip_a_sweep_cannot_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORAFRONT_CACHE", str(tmp_path))
    assert check_base_model().ok is True
    monkeypatch.setattr(doctor, "is_installed", lambda package: False)
    check = check_base_model()
    assert check.ok is False
    assert "ensurepip" in check.advice
    assert not list(tmp_path.iterdir())


def test_a_check_that_raises_is_a_failed_one() -> None:
    def broken() -> Check:
        raise ImportError("\nlibcudart.so.12: cannot open\nmore")

    check = guarded("PyTorch", broken)
    assert check == Check("PyTorch", False, "ImportError: libcudart.so.12: cannot open", check.advice)
    assert check.advice


def test_loopback_works_and_its_failure_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_loopback().ok

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket, "create_server", refuse)
    assert check_loopback().ok is False


@pytest.mark.parametrize(
    ("text", "flags"),
    [
        ("processor : 0\nflags : fpu avx512_bf16 amx_bf16 amx_tile\n", ["avx512_bf16", "amx_bf16"]),
        ("Features : fp asimd bf16\n", ["bf16"]),
        ("flags : fpu avx2\n", []),
        ("", []),
    ],
)
def test_bf16_instructions_are_read_from_cpuinfo(text: str, flags: list[str], tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    assert cpu_bf16_flags(tmp_path / "cpuinfo") == flags
    assert cpu_bf16_flags(tmp_path / "missing") == []


def fake_torch(*cards: tuple[str, int]) -> Any:
    """A module like torch with these cards: name and major compute capability."""
    cuda = types.SimpleNamespace(
        is_available=lambda: bool(cards),
        device_count=lambda: len(cards),
        get_device_properties=lambda index: types.SimpleNamespace(
            name=cards[index][0], major=cards[index][1], minor=0, total_memory=80 * GIB
        ),
        get_arch_list=lambda: ["sm_70", "sm_80", "sm_90"],
    )
    return types.SimpleNamespace(__version__="2.13.0", cuda=cuda, version=types.SimpleNamespace(cuda="13.0"))


def test_devices_and_their_bf16_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", fake_torch(("H100", 9), ("A100", 8)))
    assert check_torch() == Check("PyTorch", True, "2.13.0, H100 with 80.00 GiB, A100 with 80.00 GiB, bf16")
    monkeypatch.setitem(sys.modules, "torch", fake_torch(("V100", 7)))
    assert check_torch().ok is None
    monkeypatch.setitem(sys.modules, "torch", fake_torch(("B200", 10)))
    check = check_torch()
    assert check.ok is False
    assert "no kernels for B200 (compute capability 10.0" in check.detail
    assert check.advice.endswith("cu130")
    monkeypatch.setitem(sys.modules, "torch", fake_torch())
    monkeypatch.setattr(doctor_libraries, "cpu_bf16_flags", lambda: [])
    assert "fp32" in check_torch().advice


def test_a_driver_that_is_too_old_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_libraries, "installed_driver", lambda: "550.54.14")
    check = doctor_libraries._check_unusable_cuda("2.13.0", "13.0")
    assert check.ok is False
    assert check.detail.endswith("driver 550.54.14 is too old for torch's CUDA 13.0")
    assert check.advice.startswith("update it to 580 or newer")
    monkeypatch.setattr(doctor_libraries, "installed_driver", lambda: "580.65.06")
    assert doctor_libraries._check_unusable_cuda("2.13.0", "13.0").ok is None


def test_advice_is_shown_unless_all_is_well_and_markup_is_not_obeyed() -> None:
    checks = [
        Check("a", True, "fine", "unneeded"),
        Check("b", None, "so so", "try this"),
        Check("c", False, "[red]bad[/red] [Errno 13]", "do that"),
    ]
    console = Console(width=80, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    print_checks(checks, console)
    text = console.export_text()
    assert "unneeded" not in text
    assert "try this" in text
    assert "do that" in text
    assert "[red]bad[/red] [Errno 13]" in text
    assert [line.split()[0] for line in text.splitlines() if line[:1].strip()] == ["ok", "warning", "failed"]


@pytest.mark.slow
def test_all_is_well_here_in_a_process_of_its_own(tmp_path: Path) -> None:
    """Apart from what other tests import: Ray must not be loaded before the doctor says how."""
    code = "from search.doctor import run_checks; [print(repr(check)) for check in run_checks()]"
    environment = {**os.environ, "LORAFRONT_CACHE": str(tmp_path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    checks = {check.name: check for check in map(eval, done.stdout.splitlines())}
    assert len(checks) == 9, done.stderr
    assert not [check for check in checks.values() if check.ok is False]
    assert "ddp" in checks["ColossalAI"].detail
    assert "started on 127.0.0.1" in checks["Ray"].detail


@pytest.mark.slow
def test_ray_that_does_not_start_is_a_failed_check(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    def fail(**kwargs: Any) -> None:
        raise RuntimeError("no port\nmore")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", fail)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    check = check_ray()
    assert check.ok is False
    assert check.detail.endswith("does not start: no port")
