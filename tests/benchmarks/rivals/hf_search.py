"""Rival (b): `Trainer.hyperparameter_search(backend="ray")` with OptunaSearch, ASHA and PEFT.

    python -m tests.benchmarks.rivals.hf_search JOB OUT [--trials 16] [--workers 2] [--seed 0] [--unchanged]

After "Hyperparameter search" (huggingface.co/docs/transformers/v4.51.3/hpo_train) and Ray's example
`ray/tune/examples/pbt_transformers`. Defaults are left as they are, so the base model has the dtype of its file (bf16
here; transformers 4 loaded it in fp32); it is favoured as `tests.benchmarks.rivals.ray_tune` is.

As documented (``--unchanged``) it does not run with transformers 4.51.3, datasets 5.0.1 and ray 2.60. `make_it_run` has
the two changes that it needs, and says why.
"""

import argparse
import json
import os
import sys
from pathlib import Path

if "--unchanged" not in sys.argv:  # before Ray is imported: change 2 of `make_it_run`
    os.environ["RAY_TRAIN_V2_ENABLED"] = "0"

import ray
from datasets import load_from_disk
from peft import LoraConfig, get_peft_model
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


class EvaluateAtRungs(TrainerCallback):
    def __init__(self, rungs):
        self.rungs = rungs

    def on_train_begin(self, args, state, control, **kwargs):
        mark("train")

    def on_step_end(self, args, state, control, **kwargs):
        examples = state.global_step * args.per_device_train_batch_size
        if examples in self.rungs:
            mark("evaluate", examples)
            control.should_evaluate = control.should_save = True

    def on_evaluate(self, args, state, control, **kwargs):
        mark("report")

    def on_save(self, args, state, control, **kwargs):  # after the report
        mark("train")

    def on_train_end(self, args, state, control, **kwargs):
        mark("end")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("job", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--trials", type=int, default=16)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--unchanged", action="store_true")
    arguments = parser.parse_args()
    job = json.loads((arguments.job / "job.json").read_text())
    if not arguments.unchanged:
        make_it_run()
    ray.init(address="local", num_cpus=arguments.workers)

    def model_init(trial):
        if trial:  # the Trainer also makes one model before the search
            mark("load")
        config = trial or job["recommended"]
        model = AutoModelForCausalLM.from_pretrained(job["model"])
        lora = LoraConfig(
            task_type="CAUSAL_LM",
            r=config["rank"],
            lora_alpha=config["alpha_ratio"] * config["rank"],
            target_modules=job["target_modules"][config["targets"]],
        )
        return get_peft_model(model, lora)

    trainer = Trainer(
        model_init=model_init,
        args=TrainingArguments(
            output_dir=str(arguments.out / "trainer"),
            use_cpu=True,
            num_train_epochs=job["rungs"][-1] / job["train_examples"],
            lr_scheduler_type="cosine",
            warmup_steps=0.1,  # below 1: a share of all steps
            eval_strategy="steps",  # ASHA is refused without; no step is one but those of the callback
            eval_steps=10**6,
            save_strategy="no",
            report_to="none",
            seed=arguments.seed,
        ),
        train_dataset=load_from_disk(str(arguments.job / "train")),
        eval_dataset=load_from_disk(str(arguments.job / "validation")),
        data_collator=DataCollatorForSeq2Seq(AutoTokenizer.from_pretrained(job["model"])),
        callbacks=[EvaluateAtRungs(job["rungs"])],
    )
    space = job["space"] | {"per_device_train_batch_size": job["space"]["batch_size"]}
    first = job["recommended"] | {"per_device_train_batch_size": job["recommended"]["batch_size"]}
    for names in (space, first):
        del names["batch_size"]
    best = trainer.hyperparameter_search(
        hp_space=lambda _: tune_space(space),
        backend="ray",
        direction="minimize",
        n_trials=arguments.trials,
        compute_objective=lambda metrics: metrics["eval_loss"],
        search_alg=OptunaSearch(
            metric="objective", mode="min", points_to_evaluate=[first], seed=arguments.seed
        ),
        scheduler=ASHAScheduler(
            time_attr="epoch",  # what the Trainer reports of its progress: the rungs as shares of the examples
            metric="objective",
            mode="min",
            max_t=job["rungs"][-1] / job["train_examples"],
            grace_period=job["rungs"][0] / job["train_examples"] - 1e-9,
            reduction_factor=job["reduction_factor"],
        ),
        resources_per_trial={"cpu": 1},
        storage_path=str(arguments.out.resolve()),
        name="sweep",
    )
    trial = best.run_summary.get_best_trial("objective", "min", scope="all")
    adapter = next(Path(trial.checkpoint.path).glob("checkpoint-*"), None) if trial.checkpoint else None
    found = {"config": best.hyperparameters, "eval_loss": best.objective, "adapter": adapter and str(adapter)}
    (arguments.out / "best.json").write_text(json.dumps(found))


def make_it_run():
    """Without two changes every trial fails at its start, whatever the arguments.

    1. ``AttributeError: module 'datasets.load' has no attribute 'init_dynamic_modules'``: transformers calls it in every
       trial, datasets 4.0 removed it (transformers issue 42147). Left out here, as no data set brings code of its own.
    2. ``DeprecationWarning: `ray.train.get_checkpoint` is deprecated when running in a function passed to Ray Tune``,
       raised as an error (ray issue 49454): transformers reports through `ray.train`. RAY_TRAIN_V2_ENABLED=0 (above) is
       the way back that Ray's migration guide names.
    """
    import transformers.integrations.integration_utils as integration

    integration.is_datasets_available = lambda: False


if __name__ == "__main__":
    main()
