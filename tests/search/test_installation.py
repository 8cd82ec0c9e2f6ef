"""What is said where colossalai is missing or peft too old: one line, exit code 2, before anything is written."""

import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from search import installation
from search.errors import BrokenEnvironmentError
from search.installation import check_installation, is_installed, needed

DECLARED = ["torch<2.16,>=2.8", "peft<0.22,>=0.21", "gguf>=0.17", 'pytest>=8; extra == "dev"']
INSTALLED = {"torch": "2.13.0+cpu", "peft": "0.21.2", "colossalai": "0.5.0", "pip": "26.0"}
PIP = f"{sys.executable} -m pip install"


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Versions by package, which a test may change."""
    installed = dict(INSTALLED)

    def version(name: str) -> str:
        if name not in installed:
            raise PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(installation, "requires", lambda name: DECLARED)
    monkeypatch.setattr(installation, "version", version)
    return installed


def test_all_is_well_here() -> None:
    check_installation()
    assert {"torch", "peft", "colossalai"} <= {item.name for item in needed()}


def test_only_what_training_needs_is_asked_for(environment: dict[str, str]) -> None:
    check_installation()  # gguf is not there


def test_a_missing_colossalai_comes_with_its_command(environment: dict[str, str]) -> None:
    del environment["colossalai"]
    with pytest.raises(BrokenEnvironmentError) as caught:
        check_installation()
    expected = f"colossalai is not installed (needs ==0.5.0): {PIP} --no-deps colossalai==0.5.0"
    assert str(caught.value) == expected


@pytest.mark.parametrize("version", ["0.13.2", "0.20.0", "0.22.0"])
def test_another_peft_comes_with_its_command(version: str, environment: dict[str, str]) -> None:
    environment["peft"] = version
    with pytest.raises(BrokenEnvironmentError) as caught:
        check_installation()
    assert str(caught.value) == f"peft is {version} (needs <0.22,>=0.21): {PIP} 'peft<0.22,>=0.21'"


def test_several_come_in_one_line(environment: dict[str, str]) -> None:
    environment.update(torch="2.5.1", colossalai="0.4.9")
    with pytest.raises(BrokenEnvironmentError) as caught:
        check_installation()
    command = f"{PIP} 'torch<2.16,>=2.8' && {PIP} --no-deps colossalai==0.5.0"
    assert str(caught.value).endswith(f"colossalai is 0.4.9 (needs ==0.5.0): {command}")


def test_without_pip_uv_is_named(environment: dict[str, str]) -> None:
    del environment["colossalai"], environment["pip"]
    with pytest.raises(BrokenEnvironmentError, match=r"uv pip install --python \S+ --no-deps colossalai"):
        check_installation()


def test_on_a_node_without_our_metadata_colossalai_is_asked_for(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(installation, "requires", unknown)
    check_installation()
    del environment["colossalai"]
    with pytest.raises(BrokenEnvironmentError):
        check_installation()


def test_installed_is_what_has_metadata() -> None:
    assert is_installed("torch")
    assert not is_installed("no-such-package")


PRETENDING = """
import sys
from importlib.metadata import PackageNotFoundError, version
from search import installation

def pretend(name):
    if name == "colossalai":
        raise PackageNotFoundError(name)
    return version(name)

installation.version = pretend
from search.cli import main
main()
"""


def run_without_colossalai(arguments: list[str], folder: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", PRETENDING, *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


@pytest.mark.parametrize("arguments", [["sweep"], ["resume", "runs/x"], ["estimate", "llama3-8b"]])
def test_commands_that_train_or_trace_say_it_at_once(arguments: list[str], tmp_path: Path) -> None:
    done = run_without_colossalai(arguments, tmp_path)
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: colossalai is not installed")
    assert not done.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("arguments", [["--help"], ["sizes"], ["sweep", "--dry-run"]])
def test_the_others_work_without_it(arguments: list[str], tmp_path: Path) -> None:
    done = run_without_colossalai(arguments, tmp_path)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    assert ("not on this machine: colossalai is not installed" in done.stdout) is ("--dry-run" in arguments)
