"""Our loop, and the bare one."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

from tests.benchmarks.floor.task import Record, Task


def run_steps(task: Task, step: Callable[[list[int]], float], held: Callable[[], list[Any]]) -> Record:
    """All steps, timed, and the last one's live bytes counted. ``step`` returns the loss per target."""
    record = Record()
    for indices in task.batches[:-1]:
        record.losses.append(step(indices))
        record.step_done()
    last = partial(step, task.batches[-1])
    record.peak_bytes = peak_of(last, held)
    record.flops = flops_of(last)
    return record


def peak_of(step: Callable[[], float], held: Callable[[], list[Any]]) -> int:
    """Bytes: the most that lives at once on a CPU, the most that the allocator has given out on a GPU."""
    import torch

    from trainables.memory import probe_cpu_peak

    if not torch.cuda.is_available():
        return probe_cpu_peak(step, held()).peak_bytes
    torch.cuda.reset_peak_memory_stats()
    step()
    return torch.cuda.max_memory_allocated()


def flops_of(step: Callable[[], float]) -> int:
    """Floating-point operations of a step's matrix products and attention, recomputed ones too, as torch counts them."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()


def held_by(model: Any, optimizer: Any) -> list[Any]:
    """Every tensor that is alive between two steps."""
    import torch

    states = [
        value for state in optimizer.state.values() for value in state.values() if torch.is_tensor(value)
    ]
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    return [*model.parameters(), *model.buffers(), *gradients, *states]


def ours(task: Task) -> Record:
    """Our loop, one optimizer step after the other."""
    from trainables.worker import Worker

    worker = Worker(task.plan.data, threads=1)
    worker.begin(task.spec)
    training = worker.training
    assert training is not None

    def step(indices: list[int]) -> float:
        loss, targets = training.step_on([indices])
        return loss / targets

    return run_steps(task, step, lambda: held_by(training.module, training.optimizer.optim))


def ours_trial(task: Task) -> dict[str, Any]:
    """What a trial does between two reports, and the speed it reports itself; measuring its memory is in the CPU time."""
    from trainables.worker import Worker

    worker = Worker(task.plan.data, threads=1)
    worker.begin(task.spec)
    training = worker.training
    assert training is not None
    started = time.process_time()
    training.train_to_next_rung()
    spent = time.process_time() - started
    progress, memory = training.progress, training.probe.memory
    assert memory is not None
    return {
        "tokens_per_second": progress.tokens / progress.train_seconds,
        "tokens_per_cpu_second": progress.tokens / spent,
        "peak_bytes": memory.peak_bytes,
        "losses": [],
    }


def peft_model(task: Task, dtype: Any) -> Any:
    """The base model with a fresh adapter, as PEFT's documentation makes it; the same start as ours for one dtype."""
    import torch
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM

    from trainables.adapters import lora_config

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(1)
    base = AutoModelForCausalLM.from_pretrained(task.spec.base_model_path, torch_dtype=dtype).to(device)
    torch.manual_seed(task.spec.seed)
    return base if task.spec.kind == "full" else get_peft_model(base, lora_config(task.spec, base))


def optimizer_and_schedule(task: Task, model: Any) -> tuple[Any, Any]:
    """Fused AdamW with our schedule."""
    import torch

    config = task.spec.config
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(
        trained, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
    )
    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, task.factor)


def bare(task: Task, *, fused: bool = False) -> Record:
    """The loop that one would write by hand to be fast; full fine-tuning with fp32 weights under autocast."""
    import torch
    import torch.nn.functional as F

    from trainables.batches import collate
    from trainables.losses import to_device
    from trainables.training import base_dtype, half_precision

    model = peft_model(task, base_dtype(task.spec))
    if fused:
        from trainables.cpu_attention import use_short_attention
        from trainables.fused_adapters import fuse_adapters

        use_short_attention()
        fuse_adapters(model)
    causal = model.get_base_model() if task.spec.kind == "lora" else model
    optimizer, schedule = optimizer_and_schedule(task, model)
    trained = optimizer.param_groups[0]["params"]
    model.train()

    def step(indices: list[int]) -> float:
        batch = collate([task.plan.data.train[index] for index in indices], task.plan.data.pad_token_id)
        batch = to_device(batch, model.device)
        with half_precision(task.spec, model.device):
            hidden = causal.model(input_ids=batch.input_ids, use_cache=False).last_hidden_state
            loss = F.cross_entropy(causal.lm_head(hidden[batch.positions]).float(), batch.targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, task.spec.execution.max_grad_norm)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        return loss.item()

    return run_steps(task, step, lambda: held_by(model, optimizer))
