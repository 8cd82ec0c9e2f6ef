"""LoRA against full fine-tuning on a GPU: speed, memory, the share of the card's FLOPs, and memory against prediction.

    python -m tests.benchmarks.gpu [--size llama3.2-1b] [--batch-size 8] [--seq-len 512] [--repeats 3] [--out DIR]
                                   [--readme README.md]

A random model of the size's shape, random tokens in examples of full length, half of them targets; the recommended rank
on all linear layers. Each contender runs in a process of its own, all in turn. The first two steps warm up. FLOPs are
those that torch counts in a step (matrix products and attention), the card's are those of an 8192 x 8192 bf16 product,
measured here too. Runs are kept in ``OUT/NAME-REPEAT.json``; started again, only what is missing is run, and where
nothing is, no GPU is needed for the table.

- ``lora`` and ``full``: `trainables.training.Training` with the plugin of the size's profile; ``-ddp`` with that one.
- ``bare``: PyTorch and PEFT alone, bf16 base and fp32 adapters; ``bare-full``: fp32 weights under bf16 autocast.
- ``trainer`` and ``trainer-full``: Hugging Face's Trainer on the same (all bf16 base, or fp32 with ``bf16=True``).
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from search.config import SweepConfig, resolve_config
from search.environment import disable_telemetry, quiet_libraries
from tests.benchmarks.floor.loops import bare, ours
from tests.benchmarks.floor.task import Record, Task
from tests.benchmarks.floor.trainer import trainer
from tests.benchmarks.gpu.report import COLUMNS, table_rows, verdicts
from tests.benchmarks.gpu.task import SUPERVISED, make_task, random_model
from tests.benchmarks.tables import markdown, put_between, show
from tests.benchmarks.turns import kept, last_line, run_in_turn
from trainables.memory_model import Kind


class Contender(NamedTuple):
    """A loop, what it trains, and with which plugin if it is ours (None: the profile's)."""

    loop: Callable[[Task], Record]
    kind: Kind
    plugin: str | None = None


def autocast_trainer(task: Task) -> Record:
    """As the Trainer's documentation shows mixed precision."""
    return trainer(task, autocast=True)


def bf16_trainer(task: Task) -> Record:
    """On a bf16 base."""
    return trainer(task, base="bf16")


CONTENDERS = {
    "lora": Contender(ours, "lora"),
    "full": Contender(ours, "full"),
    "lora-ddp": Contender(ours, "lora", "ddp"),
    "full-ddp": Contender(ours, "full", "ddp"),
    "bare": Contender(bare, "lora", "ddp"),
    "bare-full": Contender(bare, "full", "ddp"),
    "trainer": Contender(bf16_trainer, "lora", "ddp"),
    "trainer-full": Contender(autocast_trainer, "full", "ddp"),
}


def task_of(name: str, arguments: argparse.Namespace, config: SweepConfig) -> Task:
    """What a contender trains."""
    _, kind, plugin = CONTENDERS[name]
    shape = arguments.batch_size, arguments.seq_len, arguments.steps
    return make_task(config, arguments.model, kind, plugin or config.execution.plugin, *shape)


def measure(name: str, arguments: argparse.Namespace, config: SweepConfig) -> dict[str, Any]:
    """One run of one contender, in this process."""
    random_model(config, arguments.model, "cuda")
    task = task_of(name, arguments, config)
    return CONTENDERS[name].loop(task).figures(task)


def card() -> dict[str, Any]:
    """The device's name, and the bf16 FLOP/s of a large matrix product (median time)."""
    import torch
    from triton.testing import do_bench

    left, right = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    seconds = do_bench(lambda: left @ right, return_mode="median") / 1e3
    return {"device": torch.cuda.get_device_name(), "flops_per_second": 2 * 8192**3 / seconds}


def predicted_bytes(name: str, arguments: argparse.Namespace, config: SweepConfig) -> int | None:
    """The traced peak of one of our loops."""
    from trainables.trace import trace_peak

    loop, kind, _ = CONTENDERS[name]
    if loop is not ours:
        return None
    spec = task_of(name, arguments, config).spec
    return trace_peak(
        config.architecture,
        spec.config,
        spec.execution,
        target_modules=spec.target_modules,
        seq_len=arguments.seq_len,
        kind=kind,
        supervised_fraction=SUPERVISED,
        device="cuda",
    ).peak_bytes


def measure_apart(name: str) -> dict[str, Any]:
    """One run of one contender, in a process of its own, with this one's arguments."""
    return last_line("tests.benchmarks.gpu", [*sys.argv[1:], "--measure", name])


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    names = list(CONTENDERS)
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--size", default="llama3.2-1b")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--seq-len", type=int, default=512)
    parser.add_argument(
        "--only", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names)
    )
    parser.add_argument("--out", type=Path, default=Path("gpu"))
    parser.add_argument(
        "--model", type=Path, help="folder of the random model, made where it is not; OUT/model"
    )
    parser.add_argument("--readme", type=Path, help="a file between whose markers the table goes")
    parser.add_argument("--marker", default="gpu", help="the markers' name")
    parser.add_argument("--measure", choices=names, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.model = arguments.model or arguments.out / "model"
    return arguments


def main() -> None:
    """Measure what is missing and show the table, or (``--measure``, for the processes of their own) one contender."""
    arguments = parse_arguments()
    disable_telemetry()
    quiet_libraries()
    config = resolve_config(arguments.size)
    if arguments.measure:
        print(json.dumps(measure(arguments.measure, arguments, config)))
        return
    arguments.out.mkdir(parents=True, exist_ok=True)
    found = kept(arguments.out / "card.json", card)
    runs = run_in_turn(arguments.only, arguments.repeats, arguments.out, measure_apart)
    predicted = {name: predicted_bytes(name, arguments, config) for name in arguments.only}
    rows = table_rows(runs, predicted, found["flops_per_second"])
    caption = (
        f"A random model of size {arguments.size} on one {found['device']}, batches of {arguments.batch_size} x "
        f"{arguments.seq_len} tokens, {arguments.repeats} repeats in turn: median (least to most). "
        f"The card's bf16 matrix product: {found['flops_per_second'] / 1e12:.0f} TFLOP/s."
    )
    show(COLUMNS, rows, caption)
    said = verdicts(runs)
    print("\n".join(said))
    if arguments.readme is not None:
        put_between(
            arguments.readme, arguments.marker, "\n\n".join((markdown(COLUMNS, rows), caption, *said))
        )


if __name__ == "__main__":
    main()
