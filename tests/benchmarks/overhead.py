"""What searching itself costs at scale: time per scheduler decision and per suggestion, and memory, ours against Ray's.

    python -m tests.benchmarks.overhead [--trials 10000] [--workers 1000] [--finished 100 1000 10000] [--repeats 2]

Two measurements, each in processes of their own, ours and theirs alternately, so that load on the machine meets both:

Seconds are CPU seconds of the calling thread.

1. *A sweep*: the simulator of `tests.benchmarks.replay` with 10,000 trials on 1,000 virtual workers on a made-up table.
   Ours is Pareto-ASHA, theirs Ray's ASHA on the loss; both sample at random, so that the runs differ by their schedulers.
   A decision is one call of `on_trial_result`, `choose_trial_to_run` is listed apart (Ray's walks over all trials).
2. *Suggestions* of our default sampler and of Ray's OptunaSearch (TPE), with 100, 1000 and 10,000 finished trials in the
   study, in memory.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks.replay.ours import Setting, ours, sweep_config
from tests.benchmarks.replay.rivals import OBJECTIVES, distributions, ray_asha, ray_optuna
from tests.benchmarks.replay.simulator import Simulator
from tests.benchmarks.replay.synthetic import write_table
from tests.benchmarks.replay.table import CurveTable

TABLE_ROWS, ASKS = 500, 10
TARGET_MICROSECONDS = 1000.0  # of a decision
SIDES = ("lorafront", "ray")
DECISION, CHOICE, SUGGESTION = "on_trial_result", "choose_trial_to_run", "suggest"


class Timed:
    """Another object, with the CPU seconds of every call of some of its methods noted."""

    def __init__(self, inner: Any, *methods: str) -> None:
        self._inner, self._methods = inner, methods
        self.seconds: dict[str, list[float]] = defaultdict(list)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if name not in self._methods:
            return found

        def timed(*arguments: Any, **named: Any) -> Any:
            started = time.thread_time()
            try:
                return found(*arguments, **named)
            finally:
                self.seconds[name].append(time.thread_time() - started)

        return timed


def resident_bytes() -> int:
    """The most memory this process has held; `ru_maxrss` is in KiB on Linux, in bytes on macOS."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def in_microseconds(seconds: list[float]) -> dict[str, float]:
    """Mean, median, 99th percentile and mean of the last tenth (which shows growth)."""
    values = 1e6 * np.array(seconds)
    return {
        "calls": len(values),
        "mean": float(values.mean()),
        "median": float(np.median(values)),
        "p99": float(np.percentile(values, 99)),
        "last_tenth": float(values[-max(1, len(values) // 10) :].mean()),
    }


def measure_sweep(side: str, table: CurveTable, trials: int, workers: int) -> dict[str, Any]:
    """One simulated sweep, its calls timed."""
    import optuna

    setting = Setting(table, 0, workers)
    if side == "lorafront":
        searcher, scheduler = ours(("sampler=random",))(setting)
    else:
        searcher = ray_optuna(table, optuna.samplers.RandomSampler(seed=0))
        scheduler = ray_asha(table, sweep_config(table).reduction_factor)
    before = resident_bytes()
    searches, decisions = Timed(searcher, SUGGESTION), Timed(scheduler, DECISION, CHOICE)
    started = time.perf_counter()
    run = Simulator(table, searches, decisions, workers, max_trials=trials).run()
    return {
        "scheduler": type(scheduler).__name__,
        "wall_seconds": time.perf_counter() - started,
        "trials": run.trials,
        "completed": len(run.completions),
        "resumed": run.resumed,
        "memory_growth_bytes": resident_bytes() - before,
        "calls": {
            name: in_microseconds(timed)
            for source in (searches, decisions)
            for name, timed in source.seconds.items()
        },
    }


def past_trials(table: CurveTable, count: int) -> list[Any]:
    """Finished trials at random points, with the values of the table, as Optuna keeps them."""
    from optuna.trial import create_trial

    random = np.random.default_rng(0)
    space = distributions(sweep_config(table).search_space)
    found = []
    for _ in range(count):
        row = table.rows[random.integers(len(table.rows))]
        jitter = np.exp(random.normal(0.0, 0.05))  # no two alike
        point = {**row.config, "alpha_ratio": row.config["alpha"] / row.config["rank"]}
        point["learning_rate"] = float(np.clip(point["learning_rate"] * jitter, 2e-4, 3e-3))
        params = {name: point[name] for name in space}
        found.append(create_trial(params=params, distributions=space, values=list(row.point)))
    return found


def measure_suggestions(side: str, table: CurveTable, finished: int) -> dict[str, Any]:
    """Suggestions with that many finished trials; every one is completed before the next, as in a sweep of one worker."""
    import optuna

    past = past_trials(table, finished)
    if side == "lorafront":
        searcher, _ = ours(past=past)(Setting(table, 0, workers=1))
    else:
        searcher = ray_optuna(table, optuna.samplers.TPESampler(seed=0))
        searcher._ot_study.add_trials(past)
    before, seconds = resident_bytes(), []
    for number in range(ASKS + 1):
        trial_id = f"new{number}"
        started = time.thread_time()
        config = searcher.suggest(trial_id)
        seconds.append(time.thread_time() - started)
        assert config is not None
        loss, memory = table.rows[number].point
        result = {
            OBJECTIVES[0]: loss,
            OBJECTIVES[1]: memory,
            "examples_seen": table.rungs[-1],
            "finished": True,
        }
        searcher.on_trial_complete(trial_id, result)
    # The first one reads the whole study once; it is told apart.
    return {
        "finished": finished,
        "first_ms": 1e3 * seconds[0],
        "median_ms": 1e3 * float(np.median(seconds[1:])),
        "memory_growth_bytes": resident_bytes() - before,
    }


def in_own_process(*arguments: str) -> dict[str, Any]:
    """One measurement in a fresh process, so that memory and caches are its own."""
    command = [sys.executable, "-m", "tests.benchmarks.overhead", "--measure", *arguments]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def alternate(repeats: int, *arguments: str) -> dict[str, list[dict[str, Any]]]:
    """Measurements of both sides in turn."""
    found: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    for _ in range(repeats):
        for side in SIDES:
            found[side].append(in_own_process(arguments[0], side, *arguments[1:]))
    return found


def report(rows: list[tuple[str, dict[str, list[float]], str]]) -> list[dict[str, Any]]:
    """Print the best of the repeats (the one least disturbed) of both sides and their ratio; returns the same."""
    from rich.console import Console
    from rich.table import Table

    shown, numbers = Table("what", *SIDES, "ratio"), []
    for what, sides, unit in rows:
        best = {side: min(values) for side, values in sides.items()}
        ratio = best["lorafront"] / best["ray"] if best["ray"] else float("nan")
        shown.add_row(what, *(f"{best[side]:.4g} {unit}" for side in SIDES), f"{ratio:.2f}")
        numbers.append({"what": what, "unit": unit, **best, "ratio": ratio, "all": sides})
    Console().print(shown)
    return numbers


def sweep_rows(found: dict[str, list[dict[str, Any]]]) -> list[tuple[str, dict[str, list[float]], str]]:
    """The rows of the simulated sweep."""
    rows = []
    for call in (DECISION, CHOICE, SUGGESTION):
        for figure in ("mean", "p99", "last_tenth"):
            values = {side: [run["calls"][call][figure] for run in runs] for side, runs in found.items()}
            rows.append((f"{call}, {figure}", values, "us"))
    memory = {side: [run["memory_growth_bytes"] / 2**20 for run in runs] for side, runs in found.items()}
    return [*rows, ("memory growth of the sweep", memory, "MiB")]


def main() -> None:
    """Measure everything, or (``--measure``, for the processes of their own) one thing."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.overhead",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=1_000)
    parser.add_argument("--finished", type=int, nargs="+", default=[100, 1_000, 10_000])
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--out", type=Path, help="a JSON file for the numbers")
    parser.add_argument("--measure", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        kind, side, path, *numbers = arguments.measure
        table = CurveTable.load(path, answers="nearest")  # no scores here, and no time for a fit
        measures: dict[str, Callable[..., Any]] = {"sweep": measure_sweep, "suggestions": measure_suggestions}
        print(json.dumps(measures[kind](side, table, *map(int, numbers))))
        return
    with tempfile.TemporaryDirectory(prefix="overhead-") as folder:
        table_path = str(write_table(Path(folder) / "table.jsonl", TABLE_ROWS))
        sweep = (table_path, str(arguments.trials), str(arguments.workers))
        rows = sweep_rows(alternate(arguments.repeats, "sweep", *sweep))
        for finished in arguments.finished:
            found = alternate(arguments.repeats, "suggestions", table_path, str(finished))
            for figure in ("median_ms", "first_ms"):
                values = {side: [run[figure] for run in runs] for side, runs in found.items()}
                rows.append((f"suggestion at {finished} finished, {figure[:-3]}", values, "ms"))
    numbers = report(rows)
    decision = numbers[0]["lorafront"]
    met = "met" if decision < TARGET_MICROSECONDS else "missed"
    print(f"Our decision takes {decision / 1000:.2f} ms in the mean; the target of under 1 ms is {met}.")
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(numbers, indent=1) + "\n")


if __name__ == "__main__":
    main()
