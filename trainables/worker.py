"""A warm worker: one process with one device that runs trials one after another on a base model it keeps.

Where a trial has several devices, this is one of its processes (`trainables.worker_group` drives them): all of them are
told the same in the same order, and all return the same losses.
"""

import gc
import os
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import nn

from search.errors import DivergedError, OutOfMemoryError
from trainables.base_models import load_base_model, resolve_base_model
from trainables.batches import Batch
from trainables.checkpoint import load_training, save_training
from trainables.cpu_attention import use_short_attention
from trainables.losses import EvalResult, SupervisedHead, eval_batches, evaluate
from trainables.memory import DeviceMemory
from trainables.quantization import quantize_base
from trainables.settings import Precision, TrialSpec
from trainables.shard import Shard
from trainables.training import Training, base_dtype, half_precision, quantized_to, trains_fp32

if TYPE_CHECKING:
    from trainables.data import PreparedData


def join_process_group(device: torch.device) -> None:
    """ColossalAI's plugins need a process group; one process alone needs no port for it, and joins none that it is in."""
    if not dist.is_initialized():
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the device has no memory left (CUDA's, or the CPU allocator's)."""
    text = str(error)
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in text


def local_base_model(spec: TrialSpec) -> Path:
    """The base model's folder on this node, fetched if it is not there.

    Raises:
        InputError: it is not there and cannot be fetched.
    """
    if spec.base_model is None:
        return Path(spec.base_model_path)
    return resolve_base_model(spec.base_model, sha256=spec.base_model_sha256)


def _loss_facts(split: str, result: EvalResult) -> dict[str, Any]:
    examples = f"{split}_example_losses".replace("eval_", "")
    return {
        f"{split}_loss": result.loss,
        f"{split}_loss_stderr": result.stderr,
        examples: result.example_losses,
    }


def _memory_facts(memory: DeviceMemory) -> dict[str, Any]:
    return {
        "peak_memory_bytes": memory.peak_bytes,
        "reserved_memory_bytes": memory.reserved_bytes,
        "outside_allocator_bytes": memory.outside_allocator_bytes,
        "peak_operator": memory.peak_operator,
        "memory_source": "measured",
    }


class Worker:
    """Runs trials. What one trial leaves behind never reaches the next: same spec, same losses, bit for bit."""

    def __init__(self, data: "PreparedData", threads: int | None = None, eval_batch_size: int = 8) -> None:
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        if threads:
            torch.set_num_threads(threads)
        self.device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
        if self.device.type == "cpu":
            use_short_attention()
        join_process_group(self.device)
        self.shard = Shard.of_process()
        self.data = data
        self._eval_batch_size = eval_batch_size
        self.validation = eval_batches(data.validation, data.pad_token_id, eval_batch_size, self.device)
        self._base: nn.Module | None = None
        self._base_key: tuple[str, str, Precision | None] | None = None
        self.training: Training | None = None
        self._facts: dict[str, Any] = {}

    def begin(self, spec: TrialSpec) -> None:
        """Get ready for a trial: adapter on the kept base, optimizer, data order."""
        self.end()
        try:
            base = self.load_base(spec)
            self._facts = {}
            if spec.evaluate_base:
                self._facts |= self._evaluate_untouched(base, spec)
            self.training = Training(spec, base, self.data, self.device, self.shard)
        except Exception as error:
            self._drop_after(error)
            raise
        self._facts["trainable_parameters"] = self.training.trainable_parameters()

    def load_base(self, spec: TrialSpec) -> nn.Module:
        """The trial's base model, the kept one if it is the same; needs no other process."""
        dtype = "fp32" if trains_fp32(spec) else spec.execution.dtype
        precision = quantized_to(spec)
        key = (spec.base_model_path, dtype, precision)
        if spec.kind == "full" or self._base_key != key:
            self._base = self._base_key = None  # at most one base in memory
        if self._base is None:
            on = torch.device("cpu") if precision else self.device
            base: nn.Module = load_base_model(local_base_model(spec), dtype=dtype, device=on)  # type: ignore[arg-type]
            if precision:
                base = quantize_base(base, precision, base_dtype(spec), self.device)
            self._base = base
            self._base_key = key
        return self._base

    def _evaluate_untouched(self, base: nn.Module, spec: TrialSpec) -> dict[str, Any]:
        head, autocast = SupervisedHead(base), partial(half_precision, spec, self.device)
        try:
            facts = _loss_facts("base_eval", evaluate(base, head, self.validation, autocast, self.shard))
            if spec.evaluate_test:
                facts |= _loss_facts("base_test", evaluate(base, head, self.test, autocast, self.shard))
        finally:
            head.remove()
        return facts

    @cached_property
    def test(self) -> list[Batch]:
        """The test split as batches, made when they are first asked for."""
        return eval_batches(self.data.test, self.data.pad_token_id, self._eval_batch_size, self.device)

    def train_rung(self) -> dict[str, Any]:
        """Train to the next rung and evaluate there.

        Raises:
            DivergedError: training or validation loss is not finite.
            OutOfMemoryError: the device has no memory left.
        """
        training = self.training
        assert training is not None, "begin a trial first"
        try:
            train_loss = training.train_to_next_rung()
            result = evaluate(training.model, training.head, self.validation, training.autocast, self.shard)
            tested = self._test(training)
        except Exception as error:
            self._drop_after(error)
            raise
        if training.probe.memory is not None:
            self._facts |= _memory_facts(training.probe.memory)
        examples = training.spec.rungs[training.progress.rung - 1]
        if result.loss != result.loss or result.loss == float("inf"):
            raise DivergedError(
                f"diverged: the validation loss became {result.loss} after {examples} examples"
            )
        progress = training.progress
        return (
            self._facts
            | _loss_facts("eval", result)
            | tested
            | {
                "examples_seen": examples,
                "train_loss": train_loss,
                "train_seconds": progress.train_seconds,
                "tokens_per_second": progress.tokens / progress.train_seconds,
                "finished": progress.rung == len(training.spec.rungs),
            }
        )

    def _test(self, training: Training) -> dict[str, Any]:
        """The loss on the test split, for a trial that has reached the full resource and is asked for it."""
        if not training.spec.evaluate_test or training.progress.rung < len(training.spec.rungs):
            return {}
        result = evaluate(training.model, training.head, self.test, training.autocast, self.shard)
        return _loss_facts("test", result)

    def _drop_after(self, error: Exception) -> None:
        """Free what a failed trial held, and say so in our own words when memory ran out."""
        self.training = self._base = self._base_key = None
        if is_out_of_memory(error):
            error.__traceback__ = None  # its frames hold the tensors
            self._free()
            raise OutOfMemoryError(f"out of memory on {self.device}: {str(error).splitlines()[0]}") from None

    def save(self, folder: Path, facts: dict[str, Any] | None = None) -> None:
        """Checkpoint the trial; of several processes the first one, and with ZeRO each its part.

        ``facts`` are what the trial's other processes measured and this one cannot know.
        """
        if self.training is not None:
            self._facts |= facts or {}
            save_training(self.training, folder, self._facts)

    def load(self, folder: Path) -> None:
        """Go on from a checkpoint of the trial that was begun."""
        assert self.training is not None, "begin a trial first"
        self._facts |= load_training(self.training, folder)
        self.training.probe.is_done = "peak_memory_bytes" in self._facts

    def end(self) -> None:
        """Finish the trial, if there is one, and get the base model ready for the next one."""
        if self.training is not None:
            self._close(self.training)
            self.training = None
        self._free()  # in any case: a trial that failed left its cycles behind, too

    def _close(self, training: Training) -> None:
        spec = training.spec
        base = training.close()
        # PiSSA changes the weights, and the hybrid plugin exchanges modules, which it refuses to do again.
        keep = spec.kind == "lora" and spec.config.init != "pissa" and spec.execution.plugin != "hybrid"
        self._base = base if keep else None
        self._base_key = self._base_key if keep else None

    def _free(self) -> None:
        """Give memory back that only cycles hold, as ZeRO's gradient hooks do: else the next trial's peak has it, too."""
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
