"""The losses of the rivals' best adapters, taken like ours: per answer token over the validation split, bf16 base."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

from search.plan import SweepPlan


def fill_in_losses(runs: list[dict[str, Any]], plan: SweepPlan) -> bool:
    """Evaluate the adapters of runs that lack a ``best_loss``. Returns whether any was filled in."""
    waiting = [run for run in runs if run.get("best_adapter") and run.get("best_loss") is None]
    if not waiting:
        return False
    from peft import PeftModel

    from trainables.base_models import load_base_model
    from trainables.losses import SupervisedHead, evaluate
    from trainables.worker import Worker

    worker = Worker(plan.data, threads=1, eval_batch_size=plan.execution.eval_batch_size)
    for run in waiting:
        if not Path(run["best_adapter"]).is_dir():
            continue
        base = load_base_model(plan.base_model_path, dtype="bf16", device="cpu")
        model = PeftModel.from_pretrained(base, run["best_adapter"])
        run["best_loss"] = evaluate(model, SupervisedHead(base), worker.validation, nullcontext).loss
    return True
