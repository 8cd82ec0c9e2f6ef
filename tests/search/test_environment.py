import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from search import environment
from search.environment import (
    available_memory_bytes,
    cpu_budget,
    default_concurrency,
    disable_telemetry,
    git_commit,
    quiet_libraries,
    software_versions,
)

GIB = 2**30


def test_versions_are_read_without_heavy_imports() -> None:
    code = (
        "import sys; from search.environment import software_versions as v; print(v()); "
        "assert not {'torch', 'ray', 'mlflow', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    versions = software_versions()
    assert versions["python"] == ".".join(map(str, sys.version_info[:3]))
    assert versions["colossalai"] == "0.5.0"
    assert set(versions) > {"lorafront", "torch", "transformers", "peft", "ray", "optuna", "mlflow"}


def test_a_package_that_is_missing_is_named_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "RECORDED_PACKAGES", ("no-such-package",))
    assert software_versions()["no-such-package"] == "not installed"


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with one commit that holds search/environment.py and is taken for ours."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    (tmp_path / "search").mkdir()
    source = tmp_path / "search" / "environment.py"
    source.write_text("")
    monkeypatch.setattr(environment, "__file__", str(source))
    for variable in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(variable)  # set while a git hook runs the tests
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false"]
    for command in (["init", "-q"], ["add", "."], [*identity, "commit", "-qm", "first"], ["tag", "v1"]):
        subprocess.run(["git", "-C", str(tmp_path), *command], check=True)
    return tmp_path


def test_the_commit_of_a_checkout_is_its_hash(checkout: Path) -> None:
    head = subprocess.run(["git", "-C", str(checkout), "rev-parse", "HEAD"], capture_output=True, text=True)
    assert git_commit() == head.stdout.strip()
    (checkout / "search" / "environment.py").write_text("changed")
    assert git_commit() == f"{head.stdout.strip()}-dirty"


def test_a_wheel_inside_another_projects_checkout_has_no_commit(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "__file__", str(checkout / "venv" / "search" / "environment.py"))
    assert git_commit() is None


def test_without_git_there_is_no_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert git_commit() is None


def test_what_the_user_has_set_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {"RAY_USAGE_STATS_ENABLED": "1", "TRANSFORMERS_VERBOSITY": "info"})
    disable_telemetry()
    quiet_libraries()
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "1"
    assert os.environ["TRANSFORMERS_VERBOSITY"] == "info"
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert os.environ["HF_HUB_DISABLE_TELEMETRY"] == "1"
    assert os.environ["TOKENIZERS_PARALLELISM"] == "false"
    assert ("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER" in os.environ) == (sys.platform == "linux")


def test_a_quiet_process_and_its_children_print_no_warnings() -> None:
    child = "import warnings; warnings.warn('from the child', FutureWarning)"
    code = (
        "from search.environment import quiet_libraries; quiet_libraries(); "
        "import subprocess, sys, warnings; warnings.warn('from the parent'); "
        f"subprocess.run([sys.executable, '-c', {child!r}])"
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONWARNINGS"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True)
    assert done.stderr == b""


@pytest.mark.parametrize(("quota", "cores"), [(None, 8), (1.5, 2), (0.1, 1), (64.0, 8)])
def test_the_cpu_budget_is_the_affinity_cut_to_the_quota(
    quota: float | None, cores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.setattr(environment, "cpu_quota", lambda: quota)
    assert cpu_budget() == cores


def test_available_memory_respects_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "free_memory_bytes", lambda: None)
    assert available_memory_bytes() > 2**20
    monkeypatch.setattr(environment, "free_memory_bytes", lambda: 12345)
    assert available_memory_bytes() == 12345


@pytest.mark.parametrize(
    ("trials", "cores", "gpus", "devices", "bytes_per_trial", "expected"),
    [
        (16, 2, 0, 1, GIB, (2, 1)),  # the embedded default on the smallest machine
        (16, 8, 0, 1, GIB, (4, 2)),  # a quarter of the trials
        (16, 1, 0, 1, GIB, (1, 1)),
        (1, 8, 0, 1, GIB, (1, 8)),
        (4, 8, 0, 1, GIB, (2, 4)),
        (100, 8, 0, 1, 5 * GIB, (3, 2)),  # memory for three
        (100, 8, 0, 1, 99 * GIB, (1, 8)),  # not even one: left to fail for itself
        (100, 8, 0, 1, 0, (8, 1)),
        (100, 8, 0, 2, GIB, (4, 1)),
        (16, 32, 8, 1, GIB, (8, 4)),
        (16, 32, 8, 4, GIB, (2, 4)),
        (16, 32, 8, 8, 99 * GIB, (1, 4)),
        (3, 32, 8, 1, GIB, (3, 10)),
        (16, 4, 2, 4, GIB, (1, 1)),
    ],
)
def test_default_concurrency(
    trials: int, cores: int, gpus: int, devices: int, bytes_per_trial: int, expected: tuple[int, int]
) -> None:
    available = 16 * GIB
    assert (
        default_concurrency(trials, cores, gpus, devices, bytes_per_trial, available_bytes=available)
        == expected
    )
