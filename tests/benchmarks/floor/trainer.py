"""Hugging Face's Trainer on the batches that all contenders get."""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tests.benchmarks.floor.loops import held_by, optimizer_and_schedule, peft_model
from tests.benchmarks.floor.task import Record, Task


def trainer(task: Task, *, base: str = "fp32", autocast: bool = False) -> Record:
    """Hugging Face's Trainer on the same batches, optimizer and schedule. It rounds the losses it logs to 1e-4."""
    import torch
    from transformers import Trainer, TrainingArguments

    model = peft_model(task, {"fp32": torch.float32, "bf16": torch.bfloat16}[base])
    optimizer, schedule = optimizer_and_schedule(task, model)
    record = Record()

    class OnGivenBatches(Trainer):
        def get_train_dataloader(self) -> Any:
            return BatchList(task)

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder, use_cpu=not torch.cuda.is_available(), bf16=autocast, max_steps=len(task.batches),
            save_strategy="no", logging_steps=1, disable_tqdm=True, report_to="none",
            max_grad_norm=task.spec.execution.max_grad_norm,
        )  # fmt: skip
        running = OnGivenBatches(
            model=model, args=arguments, optimizers=(optimizer, schedule),
            callbacks=[stopwatch(record, model, optimizer, len(task.batches))],
        )  # fmt: skip
        running.train()
    record.losses = [entry["loss"] for entry in running.state.log_history if "loss" in entry][:-1]
    return record


@dataclass
class BatchList:
    """The batches in the Trainer's form, in their order, in place of a data loader."""

    task: Task
    batch_size: int | None = None

    def __len__(self) -> int:
        return len(self.task.batches)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        import torch

        from trainables.batches import collate

        data = self.task.plan.data
        for indices in self.task.batches:
            batch = collate([data.train[index] for index in indices], data.pad_token_id)
            labels = torch.full_like(batch.input_ids, -100)
            labels[:, 1:][batch.positions[:, :-1]] = batch.targets
            yield {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, "labels": labels}


def stopwatch(record: Record, model: Any, optimizer: Any, steps: int) -> Any:
    """A callback that notes when steps end, and counts the last one's live bytes."""
    import torch
    from transformers import TrainerCallback

    from trainables.memory import LiveBytesCounter

    counter, on_gpu = LiveBytesCounter(), torch.cuda.is_available()

    class Stopwatch(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == steps - 1 and on_gpu:
                torch.cuda.reset_peak_memory_stats()
            elif state.global_step == steps - 1:
                counter.register(held_by(model, optimizer))
                counter.__enter__()

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step < steps:
                record.step_done()
            elif on_gpu:
                record.peak_bytes = torch.cuda.max_memory_allocated()
            else:
                counter.__exit__(None, None, None)
                record.peak_bytes = counter.peak_bytes

    return Stopwatch()
