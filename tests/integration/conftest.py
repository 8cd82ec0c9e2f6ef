"""A real sweep of a tiny random Llama, run once for all integration tests: real Ray, ColossalAI, Optuna, MLflow."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny import tiny_llama

LORAFRONT = str(Path(sys.executable).with_name("lorafront"))
LEARNABLE = ["--set", "space.learning_rate={low: 1e-3, high: 3e-2, log: true}", "--set", "data.seq_len=64"]
TINY_SWEEP = [
    "sweep", "--base-model", "model", "--data", "chat.jsonl", "--trials", 8, "--max-examples", 36,
    "--name", "tiny", "--concurrent", 1, "--confirm", 0, *LEARNABLE,
]  # fmt: skip


def environment(cwd: Path) -> dict[str, str]:
    """What the command runs in: a cache of its own, one thread, a wide terminal, and somebody else's cluster about."""
    own = {"LORAFRONT_CACHE": str(cwd / "cache"), "OMP_NUM_THREADS": "1", "COLUMNS": "160"}
    own["RAY_ADDRESS"] = "127.0.0.1:1"  # nobody answers there: a sweep without --address starts its own Ray
    return {**os.environ, **own}


def lorafront(*arguments: object, cwd: Path, timeout: float = 900) -> subprocess.CompletedProcess[str]:
    """Run the command as a user does."""
    command = [LORAFRONT, *map(str, arguments)]
    return subprocess.run(
        command, cwd=cwd, env=environment(cwd), capture_output=True, text=True, timeout=timeout
    )


def write_chat(path: Path, rows: int) -> Path:
    """ColossalChat rows in Chinese and English."""
    with path.open("w", encoding="utf-8") as file:
        for n in range(rows):
            question = f"{n} 加一等于几?" if n % 2 else f"What is {n} plus one?"
            answer = f"答案是 {n + 1}。" if n % 2 else f"The answer is {n + 1}."
            turns = [{"from": "user", "content": question}, {"from": "assistant", "content": answer}]
            file.write(json.dumps({"messages": turns}, ensure_ascii=False) + "\n")
    return path


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny model and data."""
    folder = tmp_path_factory.mktemp("workshop")
    tiny_llama(folder / "model")
    write_chat(folder / "chat.jsonl", 60)
    return folder


@pytest.fixture(scope="session")
def finished(workshop: Path) -> Path:
    """The run folder of a finished sweep of eight trials and the baseline."""
    done = lorafront(*TINY_SWEEP, "--out", "run", cwd=workshop)
    assert done.returncode == 0, done.stdout + done.stderr
    (workshop / "stdout.txt").write_text(done.stdout)
    return workshop / "run"
