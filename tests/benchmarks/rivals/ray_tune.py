"""Rival (a): Ray Tune with OptunaSearch and ASHA around the Trainer with PEFT, as the four documentations show it.

    python -m tests.benchmarks.rivals.ray_tune JOB OUT [--trials 16] [--workers 2] [--seed 0]

After "Training in Tune" and "Hyperparameter tuning with Optuna" (docs.ray.io, function trainable, `tune.report` with a
checkpoint), "Trainer" and "Callbacks" (huggingface.co/docs/transformers) and PEFT's quick tour. Defaults are left
as they are: the dtype of the model's file (bf16; transformers 4 loaded it in fp32), a fresh process per trial, an adapter
saved at every report. To its favour it reads tokens instead of text, pads a batch to its own longest example, evaluates
only where ASHA decides, and tries our recommended config first.
"""

import argparse
import json
import tempfile
from pathlib import Path

import ray
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
    """Evaluate at the rungs, and report the loss there with a checkpoint."""

    def __init__(self, rungs):
        self.rungs = rungs

    def on_step_end(self, args, state, control, **kwargs):
        self.examples = state.global_step * args.per_device_train_batch_size
        if self.examples in self.rungs:
            mark("evaluate", self.examples)
            control.should_evaluate = True

    def on_evaluate(self, args, state, control, metrics, model, **kwargs):
        mark("report")
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            found = {"eval_loss": metrics["eval_loss"], "examples": self.examples}
            tune.report(found, checkpoint=tune.Checkpoint.from_directory(folder))
        mark("train")


def train(config, job, folder):
    mark("load")
    try:
        model = AutoModelForCausalLM.from_pretrained(job["model"])
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
                lr_scheduler_type="cosine",
                warmup_steps=0.1,  # below 1: a share of all steps
                save_strategy="no",
                report_to="none",
                seed=job["seed"],
            ),
            train_dataset=load_from_disk(f"{folder}/train"),
            eval_dataset=load_from_disk(f"{folder}/validation"),
            data_collator=DataCollatorForSeq2Seq(AutoTokenizer.from_pretrained(job["model"])),
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
    ray.init(address="local", num_cpus=arguments.workers)
    tuner = tune.Tuner(
        tune.with_parameters(train, job=job, folder=str(arguments.job.resolve())),
        param_space=tune_space(job["space"]),
        tune_config=tune.TuneConfig(
            metric="eval_loss",
            mode="min",
            num_samples=arguments.trials,
            search_alg=OptunaSearch(points_to_evaluate=[job["recommended"]], seed=arguments.seed),
            scheduler=ASHAScheduler(
                time_attr="examples",
                max_t=job["rungs"][-1],
                grace_period=job["rungs"][0],
                reduction_factor=job["reduction_factor"],
            ),
        ),
        run_config=tune.RunConfig(name="sweep", storage_path=str(arguments.out.resolve())),
    )
    best = tuner.fit().get_best_result()
    adapter = best.checkpoint and best.checkpoint.path
    found = {"config": best.config, "eval_loss": best.metrics["eval_loss"], "adapter": adapter}
    (arguments.out / "best.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
