"""Rival (a) tuned: the same search with every cheap improvement that the four documentations offer.

    python -m tests.benchmarks.rivals.ray_tune_tuned JOB OUT [--trials 16] [--workers 2] [--seed 0]

Beside `tests.benchmarks.rivals.ray_tune`: a bf16 base model with PEFT's fp32 adapters; processes that are kept from
trial to trial (``reuse_actors``) with the data sets in Ray's object store (``with_parameters``); no waiting between two
starts (``TUNE_MAX_PENDING_TRIALS_PG``); a checkpoint only of finished trials; a fused optimizer; fewer, larger evaluation
batches; no progress bars, loggers, dashboard or forwarded output. Ray itself sets OMP_NUM_THREADS to a trial's CPUs.

Left out, because they do not help here: autocast (``bf16=True``: as fast as a bf16 base in `tests.benchmarks.floor`, and
half as much memory again), ``group_by_length`` (examples have 91 of 96 tokens on average, and it would put the longest of
all first), the base model in the object store (unpickling takes longer than reading the bf16 safetensors, 0.1 s), data
loader processes (there are as many trials as cores).
"""

import argparse
import json
import os
import tempfile
from pathlib import Path

os.environ |= {"TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1", "TUNE_MAX_PENDING_TRIALS_PG": "8"}

import ray
import torch
from datasets import load_from_disk
from peft import LoraConfig, get_peft_model
from ray import tune
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from tests.benchmarks.rivals.clock import mark
from tests.benchmarks.rivals.space import tune_space


class ReportAtRungs(TrainerCallback):
    """Evaluate at the rungs, and report the loss there; save at the last one."""

    def __init__(self, rungs):
        self.rungs = rungs

    def on_step_end(self, args, state, control, **kwargs):
        self.examples = state.global_step * args.per_device_train_batch_size
        if self.examples in self.rungs:
            mark("evaluate", self.examples)
            control.should_evaluate = True

    def on_evaluate(self, args, state, control, metrics, model, **kwargs):
        mark("report")
        found = {"eval_loss": metrics["eval_loss"], "examples": self.examples}
        if self.examples < self.rungs[-1]:
            tune.report(found)
        else:
            with tempfile.TemporaryDirectory() as folder:
                model.save_pretrained(folder)
                tune.report(found, checkpoint=tune.Checkpoint.from_directory(folder))
        mark("train")


def train(config, job, data, collator):
    mark("load")
    try:
        model = AutoModelForCausalLM.from_pretrained(job["model"], torch_dtype=torch.bfloat16)
        lora = LoraConfig(
            task_type="CAUSAL_LM",
            r=config["rank"],
            lora_alpha=config["alpha_ratio"] * config["rank"],
            target_modules=job["target_modules"][config["targets"]],
        )
        trainer = Trainer(
            model=get_peft_model(model, lora),
            args=TrainingArguments(
                output_dir="trainer",
                use_cpu=True,
                num_train_epochs=job["rungs"][-1] / job["train_examples"],
                learning_rate=config["learning_rate"],
                per_device_train_batch_size=config["batch_size"],
                per_device_eval_batch_size=2 * job["eval_batch_size"],
                lr_scheduler_type="cosine",
                warmup_steps=0.1,  # below 1: a share of all steps
                optim="adamw_torch_fused",
                logging_strategy="no",
                save_strategy="no",
                disable_tqdm=True,
                report_to="none",
                seed=job["seed"],
            ),
            train_dataset=data["train"],
            eval_dataset=data["validation"],
            data_collator=collator,
            callbacks=[ReportAtRungs(job["rungs"])],
        )
        mark("train")
        trainer.train()
    finally:
        mark("end")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("job", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--trials", type=int, default=16)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    job = json.loads((arguments.job / "job.json").read_text()) | {"seed": arguments.seed}
    data = {name: load_from_disk(str(arguments.job / name)) for name in ("train", "validation")}
    collator = DataCollatorForSeq2Seq(AutoTokenizer.from_pretrained(job["model"]))
    ray.init(address="local", num_cpus=arguments.workers, include_dashboard=False, log_to_driver=False)
    tuner = tune.Tuner(
        tune.with_parameters(train, job=job, data=data, collator=collator),
        param_space=tune_space(job["space"]),
        tune_config=tune.TuneConfig(
            metric="eval_loss",
            mode="min",
            num_samples=arguments.trials,
            reuse_actors=True,
            search_alg=OptunaSearch(points_to_evaluate=[job["recommended"]], seed=arguments.seed),
            scheduler=ASHAScheduler(
                time_attr="examples",
                max_t=job["rungs"][-1],
                grace_period=job["rungs"][0],
                reduction_factor=job["reduction_factor"],
            ),
        ),
        run_config=tune.RunConfig(name="sweep", storage_path=str(arguments.out.resolve()), verbose=0),
    )
    best = tuner.fit().get_best_result()
    adapter = best.checkpoint and best.checkpoint.path
    found = {"config": best.config, "eval_loss": best.metrics["eval_loss"], "adapter": adapter}
    (arguments.out / "best.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
