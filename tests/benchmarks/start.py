"""How long one waits at the start: help, sizes, bad input, and from a warm cache to the first training step.

    python -m tests.benchmarks.start [--repeats 5] [--sweeps 3] [--out DIR] [--readme README.md]

Every command runs in a process of its own, as often as asked, after one run that is not counted. The sweep is the
default one, its model and data in the cache; it is killed once a worker's first training step has begun, which an
import hook notes.
"""

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from analysis.files import write_atomically
from tests.benchmarks.processes import kill
from tests.benchmarks.rivals.measure import environment
from tests.benchmarks.rivals.phases import read_marks
from tests.benchmarks.tables import markdown, put_between, show, spread

LORAFRONT = str(Path(sys.executable).with_name("lorafront"))
COLUMNS = ("command", "seconds", "CPU seconds", "target, s", "met")
CAPTION = (
    "Median (least to most) of whole processes, after one run that is not counted. Targets are for wall time."
)


@dataclass(frozen=True)
class Command:
    """A command line that answers at once, and how soon it has to."""

    what: str
    arguments: tuple[str, ...]
    target: float = 1.0
    code: int = 2


COMMANDS = (
    Command("lorafront --help", ("--help",), 0.5, 0),
    Command("lorafront sweep --help", ("sweep", "--help"), 1.0, 0),
    Command("lorafront sizes", ("sizes",), 1.0, 0),
    Command("unknown command", ("sweeep",)),
    Command("unknown flag", ("sweep", "--rank", "8")),
    Command("unknown size", ("sweep", "llama9-1b")),
    Command("unknown setting", ("sweep", "--set", "space.rnk=[4]")),
    Command("a value out of range", ("sweep", "--set", "space.rank=[0]")),
    Command("memory budget that is none", ("sweep", "--memory-budget", "24 apples")),
    Command("configuration file that is not there", ("sweep", "--config", "absent.yaml")),
    Command("run folder that exists", ("sweep", "--out", ".")),
    Command("data file that is not there", ("sweep", "--data", "absent.jsonl", "--out", "new")),
    Command("base model that is not there", ("sweep", "--base-model", "./absent", "--out", "new")),
    Command("resume of no run folder", ("resume", "absent")),
    Command("report of no run folder", ("report", "absent")),
)


def seconds_of(command: Command, folder: Path) -> tuple[float, float]:
    """One run's wall time and CPU time.

    Raises:
        RuntimeError: it ended with another code than it should.
    """
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([LORAFRONT, *command.arguments], cwd=folder, capture_output=True, text=True)
    seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != command.code:
        raise RuntimeError(f"{command.what}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def first_training_step(folder: Path, timeout: float = 300.0) -> dict[str, float]:
    """Seconds from the command's start until a worker loads its model, and until its first training step begins.

    Raises:
        RuntimeError: the sweep ended, or took too long, without training.
    """
    shutil.rmtree(folder, ignore_errors=True)
    marks = folder / "marks"
    marks.mkdir(parents=True)
    log = (folder / "log.txt").open("wb")
    started = time.time()
    process = subprocess.Popen(
        [LORAFRONT, "sweep", "--out", "run"], cwd=folder, env=environment(marks), stdout=log, stderr=log,
        start_new_session=True,
    )  # fmt: skip
    known: dict[int, psutil.Process] = {}
    try:
        while time.time() - started < timeout and process.poll() is None:
            known |= {child.pid: child for child in psutil.Process(process.pid).children(recursive=True)}
            noted = [mark for marks_of_one in read_marks(marks) for mark in marks_of_one]
            first = {
                phase: min((mark["time"] for mark in noted if mark["phase"] == phase), default=None)
                for phase in ("load", "train")
            }
            if first["train"] is not None:
                return {phase: seen - started for phase, seen in first.items() if seen is not None}
            time.sleep(0.1)
    finally:
        kill(process, list(known.values()))
        log.close()
    raise RuntimeError("the sweep did not get to training:\n" + (folder / "log.txt").read_text()[-2000:])


def measure(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Everything, with what it should take; each line is printed as soon as it is known."""
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="start-") as scratch:
        (Path(scratch) / "notes.txt").write_text("somebody's file: no place for a run")
        for command in COMMANDS:
            runs = [seconds_of(command, Path(scratch)) for _ in range(arguments.repeats + 1)][1:]
            wall, cpu = [list(column) for column in zip(*runs, strict=True)]
            found.append(
                {"what": command.what, "target": command.target, "seconds": wall, "cpu_seconds": cpu}
            )
            print(f"{command.what}: {median(wall):.2f} s", file=sys.stderr, flush=True)
        sweeps = [first_training_step(Path(scratch) / "sweep") for _ in range(arguments.sweeps + 1)][1:]
    texts = {
        "load": "default sweep until a worker begins",
        "train": "default sweep until its first training step",
    }
    for phase, target in (("load", None), ("train", 12.0)):
        runs = [sweep[phase] for sweep in sweeps]
        found.append({"what": texts[phase], "target": target, "seconds": runs})
    return found


def table_rows(found: list[dict[str, Any]]) -> list[list[str]]:
    """In the order of `COLUMNS`."""
    rows = []
    for line in found:
        target, seconds = line["target"], line["seconds"]
        met = "" if target is None else ("yes" if median(seconds) < target else "NO")
        cpu = spread(line.get("cpu_seconds", []))
        rows.append([line["what"], spread(seconds), cpu, "" if target is None else f"{target:g}", met])
    return rows


def main() -> None:
    """Measure, print, and keep the numbers."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.start",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--repeats", type=int, default=5, help="of every command")
    parser.add_argument("--sweeps", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("start"))
    parser.add_argument("--readme", type=Path, help="a file between whose start markers the table goes")
    arguments = parser.parse_args()
    if min(arguments.repeats, arguments.sweeps) < 1:
        parser.error("--repeats and --sweeps must be positive")
    arguments.out.mkdir(parents=True, exist_ok=True)
    found = measure(arguments)
    write_atomically(arguments.out / "start.json", json.dumps(found, indent=1) + "\n")
    rows = table_rows(found)
    show(COLUMNS, rows, CAPTION)
    if arguments.readme is not None:
        put_between(arguments.readme, "start", f"{markdown(COLUMNS, rows)}\n\n{CAPTION}")


if __name__ == "__main__":
    main()
