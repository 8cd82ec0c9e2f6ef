"""Ten thousand trials on a thousand devices, in virtual time, with the real parts of the driver.

    python -m tests.benchmarks.scale [--trials 1000 10000] [--devices 1000] [--out DIR] [--readme README.md]

The recorded curves of the embedded default (`tests/benchmarks/data`) answer; sampler, study, scheduler, journal and
MLflow are those of a real sweep, and write a real run folder. Seconds are CPU's. 10,000 trials take about half an hour.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from analysis.files import write_atomically
from search.environment import disable_telemetry, quiet_libraries
from tests.benchmarks.scale.files import count_files
from tests.benchmarks.scale.measure import measure
from tests.benchmarks.scale.report import section, table, verdict
from tests.benchmarks.tables import put_between, show

CURVES = Path(__file__).parents[1] / "data" / "smollm2-135m.jsonl.gz"
EXAMPLES = 256  # of validation, as in the profiles of 1B to 13B models
TUNE_TRIALS, TUNE_WORKERS = (50, 150), 16


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.scale",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--trials", type=int, nargs="+", default=[1_000, 10_000])
    parser.add_argument("--devices", type=int, default=1_000)
    parser.add_argument("--examples", type=int, default=EXAMPLES, help="validation examples")
    parser.add_argument(
        "--out", type=Path, default=Path("scale"), help="figures; sizes found there are not run again"
    )
    parser.add_argument("--readme", type=Path)
    parser.add_argument(
        "--no-ray", action="store_true", help="leave out Tune's own loop and the small real sweep"
    )
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


def measure_here(trials: int, devices: int, examples: int) -> dict[str, Any]:
    """One size in this process; the run folder is deleted."""
    from tests.benchmarks.replay.table import CurveTable

    disable_telemetry()
    quiet_libraries()
    curves = CurveTable.load(CURVES)
    with tempfile.TemporaryDirectory(prefix="scale-") as folder:
        return measure(Path(folder) / "run", curves, trials, devices, examples)


def in_own_process(file: Path, module: str, *arguments: str) -> dict[str, Any]:
    """Figures from a process of its own, so that memory and caches are its own; kept in ``file``."""
    if not file.exists():
        print(f"{file.stem} ...", file=sys.stderr, flush=True)
        done = subprocess.run(
            [sys.executable, "-m", module, *arguments], check=True, stdout=subprocess.PIPE, text=True
        )
        write_atomically(file, json.dumps(json.loads(done.stdout.splitlines()[-1]), indent=1) + "\n")
    figures: dict[str, Any] = json.loads(file.read_text())
    return figures


def files_of_a_trial(out: Path) -> dict[str, Any]:
    """From a small real sweep, once."""
    file = out / "files.json"
    if not file.exists():
        shutil.rmtree(out / "small", ignore_errors=True)
        write_atomically(file, json.dumps(count_files(out / "small"), indent=1) + "\n")
    figures: dict[str, Any] = json.loads(file.read_text())
    return figures


def main() -> None:
    """Measure what is missing, and show everything."""
    arguments = parse_arguments()
    if arguments.measure is not None:
        print(json.dumps(measure_here(arguments.measure, arguments.devices, arguments.examples)))
        return
    out = arguments.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    settings = ("--devices", str(arguments.devices), "--examples", str(arguments.examples))
    found = [
        in_own_process(out / f"trials-{n}.json", "tests.benchmarks.scale", "--measure", str(n), *settings)
        for n in sorted(arguments.trials)
    ]
    tune, files = [], None
    if not arguments.no_ray:
        loop = "tests.benchmarks.scale.tune_loop"
        tune = [in_own_process(out / f"tune-{n}.json", loop, str(n), str(TUNE_WORKERS)) for n in TUNE_TRIALS]
        files = files_of_a_trial(out)
    show(*table(found))
    print("\n".join(verdict(found, tune, files)))
    if arguments.readme is not None:
        put_between(arguments.readme, "scale", section(found, tune, files))


if __name__ == "__main__":
    main()
