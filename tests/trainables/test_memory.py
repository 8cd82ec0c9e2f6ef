import random
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from colossalai.interface import OptimizerWrapper
from colossalai.nn.lr_scheduler import CosineAnnealingWarmupLR
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.profiler import ProfilerActivity, profile

from tests.trainables.counted_step import CountedStep, process_group_of_one
from trainables.memory import (
    LiveBytesCounter,
    preserved_training_state,
    probe_cpu_peak,
    read_cuda_peak,
    reset_cuda_peak,
)

KIB = 1024


def kib(size: int) -> torch.Tensor:
    """A tensor of ``size`` KiB."""
    return torch.empty(size * KIB, dtype=torch.uint8)


@pytest.fixture
def single_process_group() -> Iterator[None]:
    with process_group_of_one():
        yield


def test_views_and_in_place_operators_add_nothing() -> None:
    with LiveBytesCounter() as counter:
        tensor = kib(4)
        view = tensor[KIB:].view(3, KIB)
        view.add_(1)
        view.detach().zero_()
    assert counter.current_bytes == counter.peak_bytes == 4 * KIB
    assert counter.peak_operator == "aten.empty.memory_format"


def test_a_storage_lives_as_long_as_its_last_view() -> None:
    with LiveBytesCounter() as counter:
        tensor = kib(4)
        view = tensor[:1]
        del tensor
        assert counter.current_bytes == 4 * KIB
        del view
        assert counter.current_bytes == 0
    assert counter.peak_bytes == 4 * KIB


def test_freed_addresses_are_counted_anew() -> None:
    with LiveBytesCounter() as counter:
        for size in (4, 8, 4, 2, 8):
            tensor = kib(size)
            assert counter.current_bytes == size * KIB
            del tensor
            assert counter.current_bytes == 0
    assert counter.peak_bytes == 8 * KIB


def test_every_tensor_of_a_tuple_or_list_counts() -> None:
    source = torch.arange(KIB, dtype=torch.float32)
    counter = LiveBytesCounter()
    counter.register([source])
    with counter:
        values, indices = torch.topk(source, 512)  # 512 fp32 and 512 int64
        roots = torch._foreach_sqrt([values, values])
    assert counter.current_bytes == 4 * KIB + 512 * (4 + 8) + 2 * 512 * 4
    assert len(roots) + len(indices) > 0


def test_registered_tensors_that_share_a_storage_count_once() -> None:
    tensor = kib(4)
    counter = LiveBytesCounter()
    counter.register([tensor, tensor[:1], tensor.view(4, KIB)])
    assert counter.current_bytes == counter.peak_bytes == 4 * KIB
    del tensor
    assert counter.current_bytes == 0


def test_a_tensor_that_nobody_registered_was_alive_since_the_start() -> None:
    older = kib(4)
    with LiveBytesCounter() as counter:
        temporary = kib(8)
        del temporary
        copy = older.clone()
    assert counter.current_bytes == 8 * KIB
    assert counter.peak_bytes == 12 * KIB  # older beside temporary
    assert copy.numel() == older.numel()


def test_resizing_is_seen_with_and_without_an_operator() -> None:
    plain_resize = torch.UntypedStorage.resize_
    tensor = kib(4)
    counter = LiveBytesCounter()
    counter.register([tensor])
    with counter:
        tensor.untyped_storage().resize_(0)
        assert counter.current_bytes == 0
        tensor.untyped_storage().resize_(6 * KIB)
        assert (counter.current_bytes, counter.peak_bytes) == (6 * KIB, 6 * KIB)
        tensor.resize_(9 * KIB)
    assert (counter.current_bytes, counter.peak_bytes) == (9 * KIB, 9 * KIB)
    assert torch.UntypedStorage.resize_ is plain_resize


def peak_seen_by_profiler(step: CountedStep, start_bytes: int) -> int:
    """Most live bytes at the end of an operator, from the allocator's own events."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    events = []
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]":
            events.append((event.start_ns(), event.nbytes(), False))
        elif event.name().startswith("aten::"):
            events.append((event.start_ns() + event.duration_ns(), 0, True))
    live = peak = start_bytes
    for _, size_bytes, operator_ended in sorted(events):
        live += size_bytes
        peak = max(peak, live) if operator_ended else peak
    return peak


@pytest.mark.parametrize("reentrant", [None, True, False])
def test_counts_a_training_step_to_the_byte_like_the_profiler(reentrant: bool | None) -> None:
    # Checkpointing's saved random states bypass the dispatcher (see LiveBytesCounter): leave them out here.
    checkpointing = None if reentrant is None else {"use_reentrant": reentrant, "preserve_rng_state": False}
    step = CountedStep(checkpointing=checkpointing, supervised_fraction=0.5)
    step()
    counter = LiveBytesCounter()
    counter.register(step.held())
    start_bytes = counter.current_bytes
    with counter:
        step()
    assert counter.current_bytes == start_bytes

    scaled_adapters = 7 * 4  # autograd keeps the Python number of `B A x * scaling`, 8 bytes
    difference = peak_seen_by_profiler(step, start_bytes) - counter.peak_bytes
    assert 0 <= difference <= 8 * scaled_adapters
    assert difference % 8 == 0


@pytest.mark.parametrize("steps_before", [0, 2])
def test_gradient_buckets_of_ddp_count_although_no_python_object_holds_them(
    single_process_group: None, steps_before: int
) -> None:
    plain, wrapped = CountedStep(), CountedStep(wrap=DistributedDataParallel)
    for step in (plain, wrapped):
        for _ in range(steps_before):
            step()
    plain_bytes, wrapped_bytes = (probe_cpu_peak(run, run.held()).peak_bytes for run in (plain, wrapped))
    flat_copy = sum(parameter.numel() * 4 for parameter in wrapped.trained)
    assert flat_copy <= wrapped_bytes - plain_bytes <= flat_copy * 1.01


def test_probe_reports_peak_and_operator() -> None:
    step = CountedStep()
    memory = probe_cpu_peak(step, step.held())
    assert memory.peak_bytes > memory.allocated_bytes > sum(p.nbytes for p in step.model.parameters())
    assert memory.peak_operator == "aten._log_softmax_backward_data.default"
    assert memory.reserved_bytes is None
    assert memory.outside_allocator_bytes is None


class ScheduledTraining:
    """Steps on a model with dropout, through a Booster's optimizer wrapper, with warm-up and cosine."""

    def __init__(self) -> None:
        torch.manual_seed(1)
        self.model = nn.Sequential(nn.Linear(8, 32), nn.Dropout(0.5), nn.Linear(32, 8), nn.BatchNorm1d(8))
        self.model[0].bias.requires_grad = False
        self.optimizer = OptimizerWrapper(torch.optim.AdamW(self.model.parameters(), lr=0.05))
        self.scheduler = CosineAnnealingWarmupLR(self.optimizer.optim, total_steps=12, warmup_steps=3)

    def step(self) -> torch.Tensor:
        noise = random.random() + float(np.random.rand())
        loss = (self.model(torch.randn(16, 8)) + noise).square().mean()
        self.optimizer.backward(loss)
        self.optimizer.step()
        self.scheduler.step()
        self.optimizer.zero_grad()
        return loss.detach()


def train(probe_at: set[int]) -> tuple[torch.Tensor, list[torch.Tensor]]:
    random.seed(0)
    np.random.seed(0)
    training = ScheduledTraining()
    losses = []
    for index in range(8):
        if index in probe_at:
            with preserved_training_state(training.model, training.optimizer, training.scheduler):
                for _ in range(3):
                    training.step()
        losses.append(training.step())
    return torch.stack(losses), [*training.model.parameters(), *training.model.buffers()]


@pytest.mark.parametrize("probe_at", [{0}, {4}, {2, 3, 7}])
def test_a_probe_leaves_no_trace_in_the_training(probe_at: set[int]) -> None:
    losses, tensors = train(set())
    probed_losses, probed_tensors = train(probe_at)
    assert torch.equal(losses, probed_losses)
    assert all(torch.equal(one, other) for one, other in zip(tensors, probed_tensors, strict=True))


def test_optimizer_state_and_gradients_that_did_not_exist_do_not_afterwards() -> None:
    training = ScheduledTraining()
    training.model[2].weight.grad = torch.ones(8, 32)
    kept = training.model[2].weight.grad
    with preserved_training_state(training.model, training.optimizer, training.scheduler):
        training.step()
        assert training.optimizer.optim.state
        training.model[2].weight.grad = None
    assert not training.optimizer.optim.state
    assert training.model[0].weight.grad is None
    assert training.model[2].weight.grad is kept
    assert torch.equal(kept, torch.ones(8, 32))


def test_state_comes_back_when_the_probe_fails() -> None:
    training = ScheduledTraining()
    before = [parameter.clone() for parameter in training.model.parameters()]

    def failing_probe() -> None:
        with preserved_training_state(training.model, training.optimizer, training.scheduler):
            training.step()
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        failing_probe()
    assert all(torch.equal(a, b) for a, b in zip(before, training.model.parameters(), strict=True))


def test_probing_lora_with_dropout_changes_no_loss() -> None:
    def losses(probe: bool) -> list[float]:
        step = CountedStep(dropout=0.1, seq_len=16)
        first = step()
        if probe:
            with preserved_training_state(step.model, step.optimizer):
                probe_cpu_peak(step, step.held())
        return [first, step(), step()]

    assert losses(probe=True) == losses(probe=False)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_peak_is_the_most_ever_allocated() -> None:
    device = torch.device("cuda", 0)
    kept = torch.empty(2 * KIB * KIB, dtype=torch.uint8, device=device)
    reset_cuda_peak(device)
    start_bytes = torch.cuda.memory_allocated(device)
    large = torch.empty(32 * KIB * KIB, dtype=torch.uint8, device=device)
    del large
    memory = read_cuda_peak(device)
    assert memory.peak_bytes == start_bytes + 32 * KIB * KIB
    assert memory.allocated_bytes == start_bytes >= kept.nbytes
    assert memory.reserved_bytes is not None
    assert memory.reserved_bytes >= memory.peak_bytes
    assert memory.outside_allocator_bytes is not None
    assert memory.outside_allocator_bytes > 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_preserving_takes_no_memory_of_a_cuda_device() -> None:
    training = ScheduledTraining()
    training.model.cuda()
    reset_cuda_peak(0)
    start_bytes = torch.cuda.memory_allocated(0)
    with preserved_training_state(training.model, training.optimizer, training.scheduler):
        assert read_cuda_peak(0).peak_bytes == start_bytes
