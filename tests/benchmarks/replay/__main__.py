"""Replay recorded learning curves against every competitor: table on the screen, figure and numbers in a folder.

    python -m tests.benchmarks.replay [TABLE...] [--answers nearest] [--seeds 30] [--workers 2] [--out DIR] [--readme ME]

Without TABLE it is the recorded one in this repository. Several files with one header are taken as one table. Another
table is given just like this; its format stands in `tests/benchmarks/replay/curves.py`. With `--readme README.md` the
numbers go between that file's markers, and the figure into `.github/` beside it.

From Python: `CurveTable.load(path, ...)`, then `compare(table, all_competitors())`. A function in place of a table is
`tests.benchmarks.replay.zdt.Zdt`, for `tests.benchmarks.replay.simulator.Simulator`.
"""

import argparse
import sys
from pathlib import Path
from typing import get_args

from search.errors import InputError
from tests.benchmarks.replay.compare import compare
from tests.benchmarks.replay.report import print_table, write_json, write_readme
from tests.benchmarks.replay.rivals import all_competitors
from tests.benchmarks.replay.table import Answers, CurveTable

# 135M on the built-in data, by `tests.benchmarks.record_curves`.
RECORDED = Path(__file__).parent.parent / "data" / "smollm2-135m.jsonl.gz"


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.replay",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("tables", type=Path, nargs="*", metavar="TABLE", default=[RECORDED])
    parser.add_argument("--answers", choices=get_args(Answers), default="interpolated",
                        help="how configs that were not recorded are answered")  # fmt: skip
    parser.add_argument("--seeds", type=int, default=30)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--budget", type=float, default=0.4, help="of the compute of the whole table")
    parser.add_argument("--only", help="competitors whose name contains this text, and lorafront")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE",
                        help="for lorafront, such as sampler=gp")  # fmt: skip
    parser.add_argument("--out", type=Path, default=Path("replay"))
    parser.add_argument("--readme", type=Path, help="a file between whose replay markers the numbers go")
    arguments = parser.parse_args()
    if arguments.seeds < 1 or arguments.workers < 1 or arguments.budget <= 0:
        parser.error("--seeds, --workers and --budget must be positive")
    return arguments


def main() -> None:
    """Run the comparison."""
    arguments = parse_arguments()
    try:
        table = CurveTable.load(*arguments.tables, answers=arguments.answers)
        competitors = all_competitors(tuple(arguments.overrides))
        if arguments.only is not None:
            competitors = [competitors[0], *(c for c in competitors[1:] if arguments.only in c.name)]
        results = compare(
            table, competitors, seeds=arguments.seeds, workers=arguments.workers, budget=arguments.budget,
            say=lambda text: print(text, file=sys.stderr, flush=True),
        )  # fmt: skip
        from tests.benchmarks.replay.figure import draw

        arguments.out.mkdir(parents=True, exist_ok=True)
        write_json(results, arguments.out / "replay.json")
        draw(results, arguments.out / "replay.png")
        print_table(results)
        if arguments.readme is not None:
            write_readme(results, arguments.readme)
            draw(results, arguments.readme.parent / ".github" / "replay.png")
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
