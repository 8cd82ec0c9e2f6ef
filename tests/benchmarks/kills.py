"""A sweep that is killed again and again, against one that is not: nothing may be lost, counted twice, or different.

    python -m tests.benchmarks.kills [--kills 20] [--seed 0] [--trials 14] [--folder FOLDER]

Every launch is ended by SIGKILL at a seeded random moment: seconds after its start, some lines of trials.jsonl later,
or as soon as a certain file is being written (the study, MLflow's database, front.json, a checkpoint). Half of the kills
take the driver alone, half everything that it has started. The next launch begins at once. In the end the trials, the
front, the study and MLflow have to be those of the undisturbed sweep of the same seed, with one worker. Exits with 1 and
says what differs otherwise. About 15 seconds a kill on two idle cores.
"""

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.integration.agreement import disagreements, journal_trials
from tests.integration.conftest import TINY_SWEEP, lorafront, write_chat
from tests.integration.launched import Launched, wait_until
from tests.tiny import tiny_llama

SAME = ("status", "config", "eval_loss", "eval_loss_stderr", "peak_memory_bytes", "seed", "kind")
# Present only while something is written; `checkpoint_` folders by their temporary name or as they appear.
WRITTEN = ("optuna.db-journal", "mlflow.db-journal", ".front.json.*.tmp", "tune/*/*/checkpoint_*")


def moments(run: Path, dice: random.Random, start_seconds: float) -> tuple[str, Callable[[], bool]]:
    """A random moment, in words and as a question whether it has come; 6 lines from now it has come in any case."""
    kind = dice.choice(("time", "line", "line", "file"))
    began, size = time.monotonic(), lines(run)
    if kind == "time":
        seconds = dice.uniform(0.5, 1.2 * start_seconds)
        words, has_come = f"{seconds:.1f} s after the start", lambda: time.monotonic() - began > seconds
    elif kind == "line":
        more, pause = dice.randint(1, 5), dice.uniform(0, 0.05)
        words = f"{pause * 1000:.0f} ms after {more} more lines"
        has_come = lambda: lines(run) >= size + more and not time.sleep(pause)  # noqa: E731
    else:
        pattern = dice.choice(WRITTEN)
        known = set(run.glob(pattern))
        words, has_come = f"as {pattern} is written", lambda: bool(set(run.glob(pattern)) - known)
    return words, lambda: has_come() or lines(run) >= size + 6


def lines(run: Path) -> int:
    path = run / "trials.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def run_undisturbed(folder: Path, sweep: list[Any]) -> float:
    """The sweep that nobody kills. Returns the seconds to its first result."""
    run, began = folder / "undisturbed", time.monotonic()
    quiet = Launched(*sweep, "--out", run, cwd=folder, run=run)
    quiet.wait_for('"event":"result"')
    start_seconds = time.monotonic() - began
    stdout, stderr = quiet.process.communicate(timeout=1800)
    assert quiet.process.returncode == 0, stdout + stderr
    print(
        f"undisturbed: {lines(run)} lines in trials.jsonl, {start_seconds:.0f} s to the first result",
        flush=True,
    )
    return start_seconds


def kill_once(launched: Launched, dice: random.Random, start_seconds: float) -> str | None:
    """Kill a launch at a random moment. Returns what was done; None if it had ended before."""
    words, has_come = moments(launched.run, dice, start_seconds)
    while not has_come():
        if launched.process.poll() is not None:
            return None
        time.sleep(0.001)
    alone = dice.random() < 0.5
    (os.kill if alone else os.killpg)(launched.process.pid, signal.SIGKILL)
    launched.process.wait()
    return f"{words}, {'the driver alone' if alone else 'all processes'}; {lines(launched.run)} lines"


def differences(run: Path, other: Path) -> list[str]:
    """What differs between two finished runs, or does not fit together in the first."""
    mine, theirs = journal_trials(run), journal_trials(other)
    found = [f"trials {sorted(mine.keys() ^ theirs.keys())} are in one run only"] * (
        mine.keys() != theirs.keys()
    )
    for trial_id in mine.keys() & theirs.keys():
        one, two = mine[trial_id], theirs[trial_id]
        found += [
            f"{trial_id} {name}: {one.get(name)} / {two.get(name)}"
            for name in SAME
            if one.get(name) != two.get(name)
        ]
    if front(run) != front(other):
        found.append(f"fronts: {front(run)} / {front(other)}")
    return found + disagreements(run)


def front(run: Path) -> dict[str, Any]:
    content = json.loads((run / "front.json").read_text())
    return {
        t["trial_id"]: (t["eval_loss"], t["peak_memory_bytes"]) for t in content["trials"] if t["on_front"]
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--trials", type=int, default=14)
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    folder = (arguments.folder or Path(tempfile.mkdtemp(prefix="lorafront-kills-"))).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    tiny_llama(folder / "model")
    write_chat(folder / "chat.jsonl", 60)
    sweep = [*TINY_SWEEP, "--trials", arguments.trials]
    start_seconds = run_undisturbed(folder, sweep)

    run, dice, killed = folder / "killed", random.Random(arguments.seed), 0
    launches: list[Launched] = []
    while killed < arguments.kills:
        command = ["resume", run] if (run / "sweep.yaml").exists() else [*sweep, "--out", run]
        launches.append(Launched(*command, cwd=folder, run=run))
        done = kill_once(launches[-1], dice, start_seconds)
        if done is None:
            break
        killed += 1
        print(f"kill {killed}: {done}", flush=True)
    wait_until(lambda: not any(launched.processes() for launched in launches))
    last = lorafront("resume", run, cwd=folder, timeout=1800)
    found = differences(run, folder / "undisturbed")
    if last.returncode:
        found.insert(0, f"the last resume ended with {last.returncode}: {last.stderr}")
    print(f"{killed} kills, {len(journal_trials(run))} trials, front {front(run)}")
    print("\n".join(found) or "nothing lost, nothing twice, nothing different; no process left")
    sys.exit(bool(found) or killed < arguments.kills)


if __name__ == "__main__":
    main()
