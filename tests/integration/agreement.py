"""Do trials.jsonl, the Optuna study and MLflow tell the same story? Read with nothing of lorafront."""

import json
import sqlite3
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

STUDY_STATES = {"completed": "COMPLETE", "stopped": "PRUNED", "infeasible": "PRUNED", "failed": "FAIL"}
RUN_STATES = {"completed": "FINISHED", "stopped": "FINISHED", "infeasible": "FAILED", "failed": "FAILED"}


def rows(database: Path, query: str) -> list[tuple[Any, ...]]:
    with sqlite3.connect(database) as connection:
        return connection.execute(query).fetchall()


def journal_trials(run: Path) -> dict[str, dict[str, Any]]:
    """The newest record of every trial in trials.jsonl."""
    events = [json.loads(line) for line in (run / "trials.jsonl").read_text().splitlines()]
    return {event["trial"]["trial_id"]: event["trial"] for event in events if "trial" in event}


def disagreements(run: Path, tracking: Path | None = None) -> list[str]:
    """What does not fit together in a finished run folder; ``tracking`` is MLflow's database if it lies elsewhere."""
    trials = journal_trials(run)
    found = [f"{i} is {t['status']}" for i, t in trials.items() if t["status"] not in STUDY_STATES]
    return [*found, *_rungs(trials), *_study(run, trials), *_mlflow(tracking or run / "mlflow.db", trials)]


def _rungs(trials: dict[str, dict[str, Any]]) -> Iterator[str]:
    for trial_id, trial in trials.items():
        seen = [rung["examples_seen"] for rung in trial["rungs"]]
        if any(later <= earlier for earlier, later in pairwise(seen)):
            yield f"{trial_id} has rungs {seen}"


def _study(run: Path, trials: dict[str, dict[str, Any]]) -> Iterator[str]:
    query = """select a.value_json, t.state from trials t left join trial_user_attributes a
               on a.trial_id = t.trial_id and a.key = 'trial_id'"""
    entries = sorted(
        (json.loads(name or "null") or "nameless", s) for name, s in rows(run / "optuna.db", query)
    )
    lora = {i: trial for i, trial in trials.items() if trial["kind"] == "lora"}
    expected = sorted((i, STUDY_STATES.get(trial["status"], "RUNNING")) for i, trial in lora.items())
    if entries != expected:
        yield f"study {sorted(set(entries) ^ set(expected)) or entries} against trials.jsonl"


def _mlflow(database: Path, trials: dict[str, dict[str, Any]]) -> Iterator[str]:
    query = """select t.value, r.status, r.run_uuid from runs r join tags t on t.run_uuid = r.run_uuid
               where t.key = 'lorafront.trial_id' and r.lifecycle_stage = 'active'"""
    runs = rows(database, query)
    expected = sorted((i, RUN_STATES.get(trial["status"], "RUNNING")) for i, trial in trials.items())
    if sorted((i, status) for i, status, _ in runs) != expected:
        yield f"MLflow's runs {sorted((i, status) for i, status, _ in runs)} against {expected}"
    for trial_id, _, run_id in runs:
        query = (
            f"select step, value from metrics where run_uuid = '{run_id}' and key = 'eval_loss' order by step"
        )
        rungs = [(rung["examples_seen"], rung["eval_loss"]) for rung in trials[trial_id]["rungs"]]
        if rows(database, query) != rungs:
            yield f"MLflow's losses of {trial_id}: {rows(database, query)} against {rungs}"
