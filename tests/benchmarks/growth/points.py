"""The points of the three curves, and the sweep run at each: a tiny random model, so that overhead is what counts."""

import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.benchmarks.processes import run_measured
from tests.benchmarks.rivals.measure import ROOT, environment
from tests.benchmarks.rivals.phases import read_marks, seconds_per_phase

# Few enough examples and tokens that a trial trains for about a second.
TINY = ("--max-examples", "72", "--set", "data.seq_len=32", "--set", "data.validation_examples=8",
        "--set", "data.test_examples=8", "--no-baseline", "--confirm", "0", "--set", "execution.threads=1")  # fmt: skip
CURVE_NAMES = ("trials", "workers", "rows")
ROWS = 1_000  # where the rows are not what grows


@dataclass(frozen=True)
class Point:
    """One sweep: how many trials, workers and rows of data. ``again`` repeats a point with the same data file."""

    curve: str
    trials: int = 16
    workers: int = 2
    rows: int = ROWS
    again: bool = False

    @property
    def x(self) -> int:
        """What grows along the curve."""
        return int(getattr(self, self.curve))

    @property
    def name(self) -> str:
        """Of its files."""
        return f"{self.curve}-{self.x}{'-again' if self.again else ''}"


def all_points(quick: bool) -> list[Point]:
    """Every point, in the order in which they are run; the last rows once more, to see whether preparing is cached."""
    trials = (4, 8) if quick else (16, 32, 64, 128, 256)
    workers = (1, 2) if quick else (1, 2, 4, 8)
    rows = (1_000, 10_000) if quick else (1_000, 10_000, 100_000, 1_000_000)
    few = 4 if quick else 32
    points = [Point("trials", trials=count) for count in trials]
    points += [Point("workers", trials=few, workers=count) for count in workers]
    points += [Point("rows", trials=4, rows=count) for count in rows]
    return [*points, Point("rows", trials=4, rows=rows[-1], again=True)]


def lines(rows: int) -> Iterator[str]:
    """Prompts and answers of made-up arithmetic, all different."""
    for n in range(rows):
        yield json.dumps({"prompt": f"What is {n} plus {n % 7}?", "response": f"It is {n + n % 7}."}) + "\n"


def run_point(point: Point, out: Path, model: Path, timeout: float) -> dict[str, Any]:
    """Run the point's sweep in a process of its own."""
    folder, data = out / "runs" / point.name, out / f"rows-{point.rows}.jsonl"
    shutil.rmtree(folder, ignore_errors=True)
    marks = folder / "marks"
    marks.mkdir(parents=True)
    if not data.exists():
        with data.open("w", encoding="utf-8") as file:
            file.writelines(lines(point.rows))
    command = [str(Path(sys.executable).with_name("lorafront")), "sweep", "--base-model", str(model)]
    command += ["--data", str(data), "--out", str(folder / "run"), "--name", point.name, *TINY]
    command += ["--trials", str(point.trials), "--concurrent", str(point.workers)]
    log = folder / "log.txt"
    measured = run_measured(command, log=log, env=environment(marks), cwd=ROOT, timeout=timeout)
    if measured.returncode != 0:
        return {"name": point.name, "error": measured.tail}
    marked = read_marks(marks)
    phases = seconds_per_phase(marked, measured.started, measured.ended, point.workers)
    return vars(point) | {
        "name": point.name,
        "x": point.x,
        "makespan_seconds": measured.seconds,
        "driver_cpu_seconds": measured.root_cpu_seconds,
        "cpu_seconds": measured.cpu_seconds,
        "peak_pss_bytes": measured.peak_pss_bytes,
        "peak_root_bytes": measured.peak_root_bytes,
        "phases": phases,
        "worker_processes": len(marked),
        "load_before": measured.load_before,
    }
