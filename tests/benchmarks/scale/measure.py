"""One size: a sweep in virtual time, and everything that it cost."""

import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from search.journal import Journal
from tests.benchmarks.overhead import resident_bytes
from tests.benchmarks.replay.table import CurveTable
from tests.benchmarks.scale.driver import Driver
from tests.benchmarks.scale.mlflow_work import MlflowWork
from tests.benchmarks.scale.play import DriverSimulator

CLOSING_SECONDS = 3600.0  # to see how long MLflow takes, where a sweep would not wait so long


def measure(folder: Path, table: CurveTable, trials: int, devices: int, examples: int) -> dict[str, Any]:
    """Play a sweep into a new folder; returns its figures."""
    clock = [0.0]
    before = resident_bytes()
    driver = Driver(folder, trials, devices, lambda: clock[0])
    work = MlflowWork(driver.tracker)
    simulator = DriverSimulator(
        table,
        driver.searcher,
        driver.searching.scheduler,
        devices,
        callbacks=driver.callbacks,
        checkpoints=str(driver.paths.tune.resolve() / "launch-000"),
        examples=examples,
        max_trials=trials,
        clock=lambda seconds: clock.__setitem__(0, seconds),
    )
    started, records = time.perf_counter(), work.records
    run = simulator.run()
    sweep_seconds = time.perf_counter() - started
    played = {"mlflow": _mlflow(work), "records_while_playing": work.records - records}
    ending = _end(driver, work)
    kinds = Counter(trial.status for trial in driver.journal.trials.values())
    return {
        "trials": trials,
        "devices": devices,
        "examples": examples,
        "virtual_seconds": run.end,
        "stranded": run.stranded,
        "wall_seconds": sweep_seconds,
        "events": simulator.events,
        "rungs": sum(len(trial.rungs) for trial in driver.journal.trials.values()),
        "statuses": dict(kinds),
        "parts": {name: asdict(spent) for name, spent in driver.watch.parts.items()},
        "study_commits": work.commits["MainThread"],
        **played,
        **ending,
        "peak_bytes": resident_bytes(),
        "peak_bytes_before": before,
        "reopen_seconds": _reopen_seconds(driver),
        "bytes": {path.name: path.stat().st_size for path in sorted(folder.iterdir()) if path.is_file()},
        "lines": len(driver.journal.events),
        "files": sum(path.is_file() for path in folder.rglob("*")),
    }


def _mlflow(work: MlflowWork) -> dict[str, Any]:
    return {
        "records": work.records,
        "cpu_seconds": work.cpu_seconds,
        "wall_seconds": work.wall_seconds,
        "calls": dict(work.calls),
        "commits": work.commits["mlflow"],
    }


def _end(driver: Driver, work: MlflowWork) -> dict[str, Any]:
    """The end of a sweep: MLflow gets what it lacks, and the front."""
    started = time.perf_counter()
    driver.searching.close()
    closed = time.perf_counter()
    front = driver.journal.write_front(finished=True)
    driver.tracker.finish(front, [driver.paths.front_json], {})
    waiting = len(driver.tracker._jobs)
    problems = driver.tracker.close(timeout_seconds=CLOSING_SECONDS)
    driver.journal.close()
    return {
        "study_closing_seconds": closed - started,
        "mlflow_closing_seconds": time.perf_counter() - closed,
        "records_at_the_end": waiting,
        "mlflow_in_all": _mlflow(work),
        "problems": problems,
    }


def _reopen_seconds(driver: Driver) -> float:
    """How long `lorafront resume` reads the journal."""
    started = time.perf_counter()
    Journal(driver.paths, name="scale", size=driver.config.size).close()
    return time.perf_counter() - started
