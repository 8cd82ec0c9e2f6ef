"""Measuring the peak memory of training: on a CPU by counting live tensor bytes, on CUDA from the allocator.

Both give one number of one kind, the most bytes that live tensors occupy on the device during a training
step. `trainables.memory_model` predicts the same number.
"""

import copy
import random
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode


@dataclass(frozen=True)
class DeviceMemory:
    """What one device needed.

    ``peak_bytes`` is the figure to compare: the most bytes in live tensors. ``allocated_bytes`` are live at
    the time of reading. ``reserved_bytes`` is the most that PyTorch's caching allocator took from the device;
    it adds fragmentation, and differs between runs of the same step. ``outside_allocator_bytes`` is what the
    device holds beside the allocator (CUDA context, NCCL, other processes). Both are None on a CPU.
    ``peak_operator`` is the ATen operator at whose end the peak was reached; None on CUDA, where the
    allocator does not know it.
    """

    peak_bytes: int
    allocated_bytes: int
    reserved_bytes: int | None
    outside_allocator_bytes: int | None
    peak_operator: str | None


class LiveBytesCounter(TorchDispatchMode):
    """Counts the bytes of live tensor storages while it is entered; forward, backward and optimizer alike.

    A storage counts once, however many tensors view it, from the operator that returns it until it is freed.
    PyTorch keeps a storage's Python object as long as the storage itself, so a weak reference to that object
    dies with the memory, also when only C++ (the autograd graph) held it.

    Storages that are alive before should be handed to `register`. One that was not, and is read by an
    operator, has been alive since the start, so the counts so far are raised by it. (So DDP's gradient
    buckets, which no Python object holds, are counted.)

    Not counted is what a kernel allocates and frees inside one operator: oneDNN's scratch, and on a CPU the
    converted operand of a mixed-dtype addition (CUDA converts in registers; 2 to 6 % of the peak of a small
    Llama under gradient checkpointing, nothing without). Nor is what bypasses PyTorch's dispatcher: NumPy
    arrays, the random state that checkpointing saves (5 KB per layer), 8 bytes for each Python number that
    autograd keeps.

    Attributes:
        current_bytes: live now.
        peak_bytes: most that were ever live at once.
        peak_operator: the operator after which they were, as ``aten.mm.default``; None before the first.
    """

    def __init__(self) -> None:
        super().__init__()
        self.current_bytes = 0
        self.peak_bytes = 0
        self.peak_operator: str | None = None
        self._live: dict[int, tuple[weakref.ref[torch.UntypedStorage], int]] = {}

    def register(self, tensors: Iterable[Tensor]) -> None:
        """Count ``tensors`` that are already alive: model, gradients, optimizer state, batch."""
        for tensor in tensors:
            self._count(tensor.untyped_storage())
        self.peak_bytes = max(self.peak_bytes, self.current_bytes)

    def __enter__(self) -> Self:
        self._plain_resize = torch.UntypedStorage.resize_

        # Storage resizing (how FSDP-like code frees a tensor's memory but keeps the tensor) is no operator.
        def counted_resize(storage: torch.UntypedStorage, size_bytes: int) -> torch.UntypedStorage:
            result = self._plain_resize(storage, size_bytes)
            self._count(storage)
            self._note_peak("UntypedStorage.resize_")
            return result

        torch.UntypedStorage.resize_ = counted_resize
        return super().__enter__()

    def __exit__(self, *exception: Any) -> None:
        torch.UntypedStorage.resize_ = self._plain_resize
        super().__exit__(*exception)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is not torch.ops.aten.lift_fresh.default:  # its input is the new tensor of torch.tensor(...)
            for tensor in _tensors_in((*args, *kwargs.values())):
                self._count_as_older(tensor.untyped_storage())
        outputs = func(*args, **kwargs)
        for tensor in _tensors_in(outputs):
            self._count(tensor.untyped_storage())
        self._note_peak(str(func))
        return outputs

    def _count_as_older(self, storage: torch.UntypedStorage) -> None:
        if id(storage) not in self._live:
            self._count(storage)
            self.peak_bytes += storage.nbytes()

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size_bytes = id(storage), storage.nbytes()
        if key in self._live:
            reference, counted_bytes = self._live[key]
        else:
            reference, counted_bytes = weakref.ref(storage, lambda _: self._forget(key)), 0
        self._live[key] = reference, size_bytes
        self.current_bytes += size_bytes - counted_bytes

    def _forget(self, key: int) -> None:
        self.current_bytes -= self._live.pop(key)[1]

    def _note_peak(self, operator: str) -> None:
        if self.current_bytes > self.peak_bytes:
            self.peak_bytes, self.peak_operator = self.current_bytes, operator


def probe_cpu_peak(step: Callable[[], object], held: Iterable[Tensor]) -> DeviceMemory:
    """The most live bytes while ``step`` runs, where ``held`` are the tensors that are alive before it.

    Adam's states appear in the first optimizer step: probe after one, or let ``step`` run two. Wrap the call
    in `preserved_training_state` when the training must go on as if nothing had happened.
    """
    counter = LiveBytesCounter()
    counter.register(held)
    with counter:
        step()
    return DeviceMemory(counter.peak_bytes, counter.current_bytes, None, None, counter.peak_operator)


def reset_cuda_peak(device: torch.device | int) -> None:
    """Start a new peak on a CUDA device. Blocks cached from an earlier trial are given back first.

    Otherwise they would count as reserved by the next trial, too.
    """
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)


def read_cuda_peak(device: torch.device | int) -> DeviceMemory:
    """What a CUDA device needed since `reset_cuda_peak`.

    ``peak_bytes`` is the peak of *allocated* memory, not of reserved: allocated is what the step's tensors
    occupy (each rounded up to 512 bytes) and the same in every run, so configs can be compared and predicted.
    Reserved depends on the order of earlier allocations. To judge what fits, add to it (`search.estimate`).
    """
    torch.cuda.synchronize(device)
    free_bytes, total_bytes = torch.cuda.mem_get_info(device)
    return DeviceMemory(
        peak_bytes=torch.cuda.max_memory_allocated(device),
        allocated_bytes=torch.cuda.memory_allocated(device),
        reserved_bytes=torch.cuda.max_memory_reserved(device),
        outside_allocator_bytes=total_bytes - free_bytes - torch.cuda.memory_reserved(device),
        peak_operator=None,
    )


@contextmanager
def preserved_training_state(model: nn.Module, optimizer: Any, lr_scheduler: Any = None) -> Iterator[None]:
    """Undo, bit for bit, what the body does to a training: for a probe step that must leave no trace.

    Kept are the trainable parameters, buffers and gradients of ``model`` (None stays None), the state and
    hyperparameters of ``optimizer`` (the innermost one if it is a Booster's wrapper), ``lr_scheduler`` and
    the random states of Python, NumPy and PyTorch. The copies lie in the host's memory, so that they are no
    part of a CUDA device's peak.
    """
    optimizer = innermost_optimizer(optimizer)
    schedule = copy.deepcopy(lr_scheduler.state_dict()) if lr_scheduler is not None else None
    undo = [_remember_random_state(), _remember_parameters(model, optimizer), _remember_optimizer(optimizer)]
    try:
        yield
    finally:
        if schedule is not None:
            lr_scheduler.load_state_dict(schedule)
        for restore in undo:
            restore()


def innermost_optimizer(optimizer: Any) -> torch.optim.Optimizer:
    """ColossalAI's wrappers keep the wrapped optimizer as ``optim``, some of them twice over."""
    while hasattr(optimizer, "optim"):
        optimizer = optimizer.optim
    return optimizer


def _remember_values(tensors: list[Tensor]) -> Callable[[], None]:
    """Copies the values now; the function that it returns puts them back into the same tensors."""
    copies = [tensor.detach().to("cpu", copy=True) for tensor in tensors]

    def restore() -> None:
        with torch.no_grad():
            for tensor, saved in zip(tensors, copies, strict=True):
                tensor.copy_(saved)

    return restore


def _remember_parameters(model: nn.Module, optimizer: torch.optim.Optimizer) -> Callable[[], None]:
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    masters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    parameters = list({id(parameter): parameter for parameter in [*trainable, *masters]}.values())
    gradients = [parameter.grad for parameter in parameters]
    existing = [gradient for gradient in gradients if gradient is not None]
    restore_values = _remember_values([*parameters, *model.buffers(), *existing])

    def restore() -> None:
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        restore_values()

    return restore


def _remember_optimizer(optimizer: torch.optim.Optimizer) -> Callable[[], None]:
    groups = [
        {key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups
    ]
    states = {parameter: dict(state) for parameter, state in optimizer.state.items()}
    values = [value for state in states.values() for value in state.values()]
    restore_values = _remember_values([value for value in values if isinstance(value, Tensor)])

    def restore() -> None:
        restore_values()
        optimizer.state.clear()
        optimizer.state.update(states)
        for group, saved in zip(optimizer.param_groups, groups, strict=True):
            group.update(saved)

    return restore


def _remember_random_state() -> Callable[[], None]:
    on_cuda = torch.cuda.is_available() and torch.cuda.is_initialized()
    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    cuda = torch.cuda.get_rng_state_all() if on_cuda else []

    def restore() -> None:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(cpu)
        torch.cuda.set_rng_state_all(cuda)

    return restore


def _tensors_in(nested: Any) -> Iterator[Tensor]:
    """The tensors among an operator's arguments or results (faster than torch's general pytree)."""
    if isinstance(nested, Tensor):
        yield nested
    elif isinstance(nested, list | tuple):
        for element in nested:
            yield from _tensors_in(element)
