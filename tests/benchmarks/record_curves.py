"""Record real learning curves: random configs of a size's whole space, trained to every rung, one JSON line each.

    python -m tests.benchmarks.record_curves OUT.jsonl --configs 160 --part 0/2

The table is what `tests.benchmarks.replay` replays. Runs can be cut off and started again: what is in the file is not
run again. Several processes may record at once, each its own ``--part`` into its own file. Seconds are CPU seconds of
the process, so that other load on the machine does not enter (one thread; the parts do not count into each other).

Line 1 is the header: ``schema``, ``size``, ``rungs``, ``seed``, ``objectives``, ``device``, ``versions``, ``base`` (the
untouched model), ``data``. Every other line is one config: ``config``, ``seed``, ``begin_seconds``
(adapter and optimizer), ``peak_memory_bytes``, ``predicted_memory_bytes``, ``trainable_parameters``, ``test_loss``,
``test_loss_stderr``, and in ``rungs`` for each ``examples_seen``, ``eval_loss``, ``eval_loss_stderr``, ``example_losses``
(the validation examples' parts of the loss), ``train_seconds`` (since the trial's start) and ``eval_seconds``.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from search.config import SweepConfig, resolve_config
from search.environment import quiet_libraries, software_versions
from search.plan import SweepPlan, make_plan
from search.space import Choices, Dimension
from trainables.losses import eval_batches, evaluate
from trainables.settings import TrialConfig, TrialSpec
from trainables.worker import Worker


def draw(dimension: Dimension, random: np.random.Generator) -> Any:
    """A value of a dimension, evenly on its own scale."""
    if isinstance(dimension, Choices):
        return dimension.values[random.integers(len(dimension.values))]
    if dimension.log:
        return float(np.exp(random.uniform(np.log(dimension.low), np.log(dimension.high))))
    return float(random.uniform(dimension.low, dimension.high))


def random_configs(config: SweepConfig, count: int, seed: int) -> list[TrialConfig]:
    """The same configs for the same seed, the profile's recommended one first."""
    random = np.random.default_rng(seed)
    space = config.search_space
    points = [{name: draw(d, random) for name, d in space.dimensions.items()} for _ in range(count - 1)]
    return [space.to_config(point) for point in (config.recommended, *points)]


def record(worker: Worker, plan: SweepPlan, spec: TrialSpec) -> dict[str, Any]:
    """Train one config to the full resource."""
    test = eval_batches(plan.data.test, plan.data.pad_token_id, spec.execution.eval_batch_size, worker.device)
    started = time.process_time()
    worker.begin(spec)
    begun = time.process_time()
    training, rungs, train_seconds = worker.training, [], 0.0
    assert training is not None
    for examples in spec.rungs:
        before = time.process_time()
        training.train_to_next_rung()
        trained = time.process_time()
        result = evaluate(training.model, training.head, worker.validation, training.autocast)
        train_seconds += trained - before
        rungs.append(
            {
                "examples_seen": examples,
                "eval_loss": round(result.loss, 5),
                "eval_loss_stderr": round(result.stderr, 5),
                "example_losses": [round(loss, 4) for loss in result.example_losses],
                "train_seconds": round(train_seconds, 2),
                "eval_seconds": round(time.process_time() - trained, 2),
            }
        )
    tested = evaluate(training.model, training.head, test, training.autocast)
    assert training.probe.memory is not None
    line = {
        "config": spec.config.model_dump(mode="json", exclude_defaults=False),
        "kind": spec.kind,
        "seed": spec.seed,
        "begin_seconds": round(begun - started, 2),
        "peak_memory_bytes": training.probe.memory.peak_bytes,
        "predicted_memory_bytes": plan.predict_memory(spec),
        "trainable_parameters": training.trainable_parameters(),
        "test_loss": round(tested.loss, 5),
        "test_loss_stderr": round(tested.stderr, 5),
        "rungs": rungs,
    }
    worker.end()
    return line


def base_losses(worker: Worker, plan: SweepPlan) -> dict[str, Any]:
    """The untouched model on the validation examples, as a sweep's first trial reports it."""
    spec = plan.spec("base", TrialConfig(rank=2)).model_copy(update={"evaluate_base": True})
    worker.begin(spec)
    result = worker.train_rung()
    worker.end()
    return {
        "eval_loss": round(result["base_eval_loss"], 5),
        "eval_loss_stderr": round(result["base_eval_loss_stderr"], 5),
        "example_losses": [round(loss, 4) for loss in result["base_example_losses"]],
    }


def header(plan: SweepPlan, worker: Worker) -> dict[str, Any]:
    """What the curves were recorded on."""
    config = plan.config
    return {
        "schema": 1,
        "size": config.size,
        "rungs": list(config.rungs),
        "seed": config.seed,
        "objectives": ["eval_loss", "peak_memory_bytes"],
        "device": plan.machine.description,
        "versions": software_versions(),
        "base": base_losses(worker, plan),
        "data": {"source": config.data.source, "fingerprint": plan.data.fingerprint, **plan.data.counts},
    }


def main() -> None:
    """Record the configs of one part that are not in the file yet."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--size", default="smollm2-135m")
    parser.add_argument("--configs", type=int, default=160)
    parser.add_argument("--part", default="0/1", help="which of how many parts, such as 0/2")
    parser.add_argument("--seed", type=int, default=2026, help="of the configs")
    arguments = parser.parse_args()
    part, parts = map(int, arguments.part.split("/"))
    quiet_libraries()
    plan = make_plan(resolve_config(arguments.size), lambda text: None)
    configs = random_configs(plan.config, arguments.configs, arguments.seed)[part::parts]
    done = arguments.out.read_text().count("\n") - 1 if arguments.out.exists() else -1
    worker = Worker(plan.data, threads=1, eval_batch_size=plan.execution.eval_batch_size)
    with arguments.out.open("a") as file:
        if done < 0:
            file.write(json.dumps(header(plan, worker)) + "\n")
        for number, config in enumerate(configs[max(0, done) :], max(0, done)):
            line = record(worker, plan, plan.spec(f"c{number * parts + part:04d}", config))
            file.write(json.dumps(line) + "\n")
            file.flush()


if __name__ == "__main__":
    main()
