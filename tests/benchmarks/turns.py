"""Contenders that run in turn, each in a process of its own, with every run kept on disk."""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from analysis.files import write_atomically


def kept(file: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What a file holds, which is made and written unless it is there."""
    if not file.exists():
        write_atomically(file, json.dumps(make()) + "\n")
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def last_line(module: str, arguments: Sequence[str]) -> dict[str, Any]:
    """The JSON in the last line that a module prints, run in a process of its own."""
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def run_in_turn(
    names: Sequence[str], repeats: int, out: Path, measure: Callable[[str], dict[str, Any]]
) -> dict[str, list[dict[str, Any]]]:
    """All contenders in turn, as often as asked; what has its file in ``out`` already is not run again."""
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for repeat in range(repeats):
        for name in names:
            run = kept(out / f"{name}-{repeat}.json", lambda name=name: measure(name))  # type: ignore[misc]
            runs[name].append(run)
            print(f"{name}: {run['tokens_per_second']:.0f} tokens/s", file=sys.stderr, flush=True)
    return runs
