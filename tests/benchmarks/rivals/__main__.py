"""A default sweep, ours against what people write with Ray Tune, Optuna, ASHA, the Trainer and PEFT, run alternately.

    python -m tests.benchmarks.rivals [--rounds 3] [--trials 16] [--workers 2] [--out DIR] [--readme README.md] [--quick]

Each run's figures are in ``OUT/SIDE-SEED.json`` as soon as it ends; started again, only what is missing is run. Needs a
machine with nothing else on it. ``--quick`` checks the benchmark itself: a tiny random model, 3 configs, one round.
"""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from analysis.files import write_atomically
from search.config import SweepConfig, resolve_config
from search.environment import disable_telemetry, quiet_libraries
from search.errors import InputError, LorafrontError
from search.plan import make_plan
from tests.benchmarks.rivals.job import write_job
from tests.benchmarks.rivals.losses import fill_in_losses
from tests.benchmarks.rivals.measure import SIDES, Settings, Side, run_side
from tests.benchmarks.rivals.report import print_tables, section
from tests.benchmarks.tables import put_between


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.rivals",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = [side.name for side in SIDES]
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--trials", type=int, default=16)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument(
        "--only", nargs="+", choices=names, default=names, metavar="SIDE", help=", ".join(names)
    )
    parser.add_argument("--timeout", type=float, default=3600.0, help="seconds that one run may take")
    parser.add_argument("--out", type=Path, default=Path("rivals"))
    parser.add_argument("--readme", type=Path, help="a file between whose rivals markers the tables go")
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    if min(arguments.rounds, arguments.trials, arguments.workers) < 1:
        parser.error("--rounds, --trials and --workers must be positive")
    if arguments.quick:
        arguments.rounds, arguments.trials = 1, 3
    return arguments


def sweep_of(arguments: argparse.Namespace) -> tuple[SweepConfig, tuple[str, ...]]:
    """The configuration that all sides share, and the arguments that give it to `lorafront sweep`."""
    if not arguments.quick:
        return resolve_config(None), ()
    from tests.tiny import tiny_llama

    model = str(tiny_llama((arguments.out / "tiny").resolve()))
    config = resolve_config(None, flags={"base_model": model, "max_examples": 72})
    return config, ("--base-model", model, "--max-examples", "72")


def load_runs(out: Path, sides: list[Side]) -> dict[str, dict[int, dict[str, Any]]]:
    """The figures of runs that ended well."""
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for side in sides:
        for file in sorted(out.glob(f"{side.name}-[0-9]*.json")):
            run = json.loads(file.read_text())
            if run["side"] == side.name:
                found.setdefault(side.name, {})[run["seed"]] = run
    return found


def save(out: Path, run: dict[str, Any]) -> None:
    """A run's figures, whole or not at all."""
    write_atomically(out / f"{run['side']}-{run['seed']}.json", json.dumps(run, indent=1) + "\n")


def run_missing(settings: Settings, sides: list[Side], seeds: range) -> list[dict[str, Any]]:
    """Run what has no figures yet, all sides of a round one after the other. Returns the failures."""
    errors = []
    for number, seed in enumerate(seeds):
        turned = sides[number % len(sides) :] + sides[: number % len(sides)]  # no side is always the first
        for side in turned:
            if (settings.out / f"{side.name}-{seed}.json").exists():
                continue
            print(f"round {number + 1}: {side.name}, seed {seed}", file=sys.stderr, flush=True)
            run = run_side(side, settings, seed)
            if "error" in run:
                errors.append(run)
                print(f"  failed: {run['error']}", file=sys.stderr, flush=True)
            else:
                save(settings.out, run)
                print(f"  {run['makespan_seconds']:.0f} s", file=sys.stderr, flush=True)
    return errors


def check_same(out: Path, shared: dict[str, Any]) -> None:
    """A folder holds runs of one setting only."""
    file = out / "settings.json"
    if file.exists() and json.loads(file.read_text()) != shared:
        raise InputError(f"{out} holds runs with other settings: give another --out")
    write_atomically(file, json.dumps(shared, indent=1) + "\n")


def main() -> None:
    """Run the comparison."""
    arguments = parse_arguments()
    disable_telemetry()
    quiet_libraries()
    os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"
    try:
        out = arguments.out.resolve()
        out.mkdir(parents=True, exist_ok=True)
        config, sweep = sweep_of(arguments)
        plan = make_plan(config, lambda text: None)
        shared = {"size": config.size, "rungs": list(config.rungs), "trials": arguments.trials,
                  "workers": arguments.workers, "fingerprint": plan.data.fingerprint}  # fmt: skip
        check_same(out, shared)
        settings = Settings(
            out, write_job(plan, out / "job"), sweep, arguments.trials, arguments.workers, arguments.timeout
        )
        sides = [side for side in SIDES if side.name in arguments.only]
        seeds = range(arguments.first_seed, arguments.first_seed + arguments.rounds)
        errors = run_missing(settings, sides, seeds)
        runs = load_runs(out, sides)
        flat = [run for by_seed in runs.values() for run in by_seed.values()]
        if fill_in_losses(flat, plan):
            for run in flat:
                save(out, run)
        print_tables(shared, runs, errors)
        if arguments.readme is not None:
            put_between(arguments.readme, "rivals", section(shared, runs))
    except LorafrontError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    sys.exit(1 if errors else 0)


if __name__ == "__main__":
    main()
