"""One trial against its floor: our loop, a bare PyTorch loop, and the Trainer, on the same config and batches.

    python -m tests.benchmarks.floor [--repeats 3] [--examples 64] [--out DIR] [--readme README.md] [--quick]

Each contender trains the default model's recommended config on one thread in a process of its own, all in turn, as often
as asked. The first two steps warm up and one more on the longest batch has its live bytes counted: neither is timed.
Tokens are real ones, without padding. Runs are kept in ``OUT/NAME-REPEAT.json``; started again, only what is missing
is run.

- ``ours``: `trainables.training.Training`, step by step; ``ours-trial`` as a trial runs it, memory probe and all.
- ``bare``: the unavoidable arithmetic with PyTorch and PEFT alone: frozen bf16 base, fp32 adapters, no mask, head at
  supervised positions only, batches padded to their own longest example, AdamW. ``bare-fused`` has our attention and
  adapter passes too, and nothing else of ours.
- ``trainer``: the Trainer as written (fp32), on a bf16 base, and with ``bf16=True`` (autocast), our schedule given to it.
"""

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from search.environment import disable_telemetry, quiet_libraries
from tests.benchmarks.floor.loops import bare, ours, ours_trial
from tests.benchmarks.floor.report import COLUMNS, table_rows, verdict
from tests.benchmarks.floor.task import Record, Task
from tests.benchmarks.floor.trainer import trainer
from tests.benchmarks.tables import markdown, put_between, show
from tests.benchmarks.turns import last_line, run_in_turn

CONTENDERS: dict[str, Callable[[Task], Record | dict[str, Any]]] = {
    "ours": ours,
    "ours-trial": ours_trial,
    "bare": bare,
    "bare-fused": partial(bare, fused=True),
    "trainer": trainer,
    "trainer-bf16": partial(trainer, base="bf16"),
    "trainer-autocast": partial(trainer, autocast=True),
}


def measure(name: str, examples: int, model: str | None) -> dict[str, Any]:
    """One run of one contender, in this process."""
    task = Task.make(examples, model)
    found = CONTENDERS[name](task)
    return found if isinstance(found, dict) else found.figures(task)


def measure_apart(name: str, examples: int, model: str | None) -> dict[str, Any]:
    """One run of one contender, in a process of its own."""
    arguments = ["--measure", name, "--examples", str(examples), *(["--model", model] if model else [])]
    return last_line("tests.benchmarks.floor", arguments)


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    names = list(CONTENDERS)
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.floor",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--examples", type=int, default=64)
    parser.add_argument(
        "--only", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names)
    )
    parser.add_argument("--model", help="a base model in place of the default one")
    parser.add_argument("--out", type=Path, default=Path("floor"))
    parser.add_argument("--readme", type=Path, help="a file between whose floor markers the table goes")
    parser.add_argument(
        "--quick", action="store_true", help="tiny random model, one repeat: a check of the benchmark"
    )
    parser.add_argument("--measure", choices=names, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Measure everything, or (``--measure``, for the processes of their own) one contender."""
    arguments = parse_arguments()
    disable_telemetry()
    quiet_libraries()
    if arguments.measure:
        print(json.dumps(measure(arguments.measure, arguments.examples, arguments.model)))
        return
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.quick:
        from tests.tiny import tiny_llama

        arguments.model = str(tiny_llama(arguments.out.resolve() / "tiny"))
        arguments.repeats = 1
    names = [name for name in CONTENDERS if name in {*arguments.only, "ours", "bare"}]
    one_run = partial(measure_apart, examples=arguments.examples, model=arguments.model)
    runs = run_in_turn(names, arguments.repeats, arguments.out, one_run)
    rows = table_rows(runs)
    caption = (
        f"One thread, {arguments.examples} examples, {arguments.repeats} repeats in turn: median (least to most). "
        "Loss differences are from the bare loop, step by step, in nats per target; the Trainer rounds its to 0.0001."
    )
    show(COLUMNS, rows, caption)
    print(verdict(runs))
    if arguments.readme is not None:
        put_between(arguments.readme, "floor", "\n\n".join((markdown(COLUMNS, rows), caption, verdict(runs))))


if __name__ == "__main__":
    main()
