"""The task that all sides get, written before any clock starts: model folder, tokens, space, rungs.

The rivals read prepared tokens, so they neither read sources nor tokenise; lorafront does both within its time.
"""

import json
from pathlib import Path
from typing import Any

from search.config import SweepConfig
from search.errors import InputError
from search.plan import SweepPlan
from trainables.chat import TokenizedExample


def write_job(plan: SweepPlan, folder: Path) -> dict[str, Any]:
    """``job.json`` and the splits as data sets of `datasets` (``load_from_disk``). Returns the job.

    Raises:
        InputError: a batch size of the space does not divide the first rung, where the Trainer is to stop exactly.
    """
    from datasets import Dataset

    sizes, first = plan.config.search_space.to_yaml()["batch_size"], plan.config.rungs[0]
    if any(first % size for size in (sizes if isinstance(sizes, list) else [sizes])):
        raise InputError(f"the first rung of {first} examples is no multiple of the batch sizes {sizes}")

    folder.mkdir(parents=True, exist_ok=True)
    splits = {"train": plan.data.train, "validation": plan.data.validation}
    for name, examples in splits.items():
        Dataset.from_list([as_row(example) for example in examples]).save_to_disk(str(folder / name))
    job = job_of(plan.config) | {
        "model": str(plan.base_model_path),
        "target_modules": {name: list(modules) for name, modules in plan.targets.items()},
        "mean_tokens": sum(len(e.input_ids) for e in plan.data.train) / len(plan.data.train),
        "train_examples": len(plan.data.train),
        "validation_examples": len(plan.data.validation),
    }
    (folder / "job.json").write_text(json.dumps(job, indent=1) + "\n")
    return job


def job_of(config: SweepConfig) -> dict[str, Any]:
    """What of the configuration shapes a rival's search."""
    return {
        "size": config.size,
        "rungs": list(config.rungs),
        "reduction_factor": config.reduction_factor,
        "seq_len": config.data.seq_len,
        "eval_batch_size": config.execution.eval_batch_size,
        "space": config.search_space.to_yaml(),
        "recommended": config.search_space.restrict(config.recommended),
    }


def as_row(example: TokenizedExample) -> dict[str, list[int]]:
    """An example as transformers wants it: -100 where a token is no target.

    transformers shifts labels itself (the logits at t - 1 meet the label at t), as `trainables.batches` does.
    """
    ids = example.input_ids.tolist()
    labels = [
        token if wanted else -100 for token, wanted in zip(ids, example.supervised.tolist(), strict=True)
    ]
    return {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": labels}
