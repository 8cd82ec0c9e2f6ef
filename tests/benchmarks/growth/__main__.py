"""How makespan and the driver's CPU time grow with trials (16 to 256), workers (1 to 8) and rows of data (1k to 1M).

    python -m tests.benchmarks.growth [--out DIR] [--quick]

Each point is a real sweep of a tiny random model, with its figures in ``OUT/POINT.json`` as soon as it ends; started
again, only what is missing is run. The figure is ``OUT/growth.png``. Under 15 minutes on two quiet cores.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from analysis.files import write_atomically
from search.environment import cpu_budget, disable_telemetry, quiet_libraries
from tests.benchmarks.growth.points import CURVE_NAMES, all_points, run_point
from tests.benchmarks.growth.report import draw, print_all


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.growth",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, default=Path("growth"))
    parser.add_argument("--only", nargs="+", choices=CURVE_NAMES, default=list(CURVE_NAMES))
    parser.add_argument("--timeout", type=float, default=900.0, help="seconds that one point may take")
    parser.add_argument("--quick", action="store_true", help="few, small points: a check of the benchmark")
    return parser.parse_args()


def run_missing(arguments: argparse.Namespace, out: Path, model: Path) -> tuple[list[dict[str, Any]], bool]:
    """All points that have no figures yet; a failed one is left out. Returns the figures, and whether all went well."""
    found, well = [], True
    for point in all_points(arguments.quick):
        file = out / f"{point.name}.json"
        if point.curve not in arguments.only:
            continue
        if not file.exists():
            print(f"{point.name} ...", file=sys.stderr, flush=True)
            figures = run_point(point, out, model, arguments.timeout)
            if "error" in figures:
                print(f"{point.name}: failed\n{figures['error']}", file=sys.stderr)
                well = False
                continue
            write_atomically(file, json.dumps(figures, indent=1) + "\n")
        found.append(json.loads(file.read_text()))
    return found, well


def main() -> None:
    """Run what is missing, and show everything."""
    from tests.tiny import tiny_llama

    arguments = parse_arguments()
    disable_telemetry()
    quiet_libraries()
    out = arguments.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    model = out / "tiny"
    if not (model / "config.json").exists():
        tiny_llama(model)
    found, well = run_missing(arguments, out, model)
    for data in out.glob("rows-*.jsonl"):
        data.unlink()
    settings = {
        "cores": cpu_budget(),
        "trials": next(p.trials for p in all_points(arguments.quick) if p.curve == "workers"),
    }
    print_all(found, settings)
    draw(found, settings, out / "growth.png")
    sys.exit(0 if well else 1)


if __name__ == "__main__":
    main()
