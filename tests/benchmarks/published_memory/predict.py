"""Our prediction for a published row: its set-up, with what its loop does otherwise than ours."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest.mock import patch

from search.sizes import load_profile
from tests.benchmarks.published_memory.rows import PublishedRow
from trainables.parameter_counts import count_parameters, linear_shapes
from trainables.settings import Architecture, TrialConfig, TrialSpec
from trainables.timeline import MisalignedError, Timeline, extrapolate

_DEPTHS = 4, 5


def predicted_bytes(row: PublishedRow) -> int:
    """The peak in bytes that is set beside ``row.published_bytes``."""
    arch = load_profile(row.size).architecture
    if row.loop == "coati, head only":
        return _head_only(arch, row)
    with _loss_as(row.loss), _plain_bf16() if row.loop == "plain bf16" else nullcontext():
        peak = int(_timeline(arch, row).live.sum(1).max())
    # Traced with DDP, whose gradient buckets PEFT's script, on one GPU without DDP, does not have.
    if row.loop == "plain bf16":
        return peak - 2 * count_parameters(arch)
    return peak


def _timeline(arch: Architecture, row: PublishedRow) -> Timeline:
    try:
        return extrapolate(*(_trace(arch, row, layers) for layers in _DEPTHS), arch.num_layers - _DEPTHS[0])
    except MisalignedError:
        return _trace(arch, row, arch.num_layers)


def _trace(arch: Architecture, row: PublishedRow, layers: int) -> Timeline:
    from trainables.trace_step import StepShape, trace_step

    spec = TrialSpec(
        trial_id="published",
        kind=row.kind,
        config=TrialConfig(rank=row.rank or 1, batch_size=row.examples),
        execution=row.execution,
        target_modules=row.targets,
        rungs=(row.examples,),
        base_model_path="",
    )
    shallow = arch.model_copy(update={"num_layers": layers})
    positions = row.execution.micro_batch(row.examples) * (row.seq_len - 1)
    return trace_step(spec, StepShape(shallow, layers, row.seq_len, positions, "cuda")).timeline


@contextmanager
def _plain_bf16() -> Iterator[None]:
    """Full fine-tuning with weights, gradients and Adam's states in bf16, without autocast."""
    import torch

    from trainables import trace_step

    with (
        patch.object(trace_step, "base_dtype", lambda spec: torch.bfloat16),
        patch.object(trace_step.TracedTraining, "autocast", lambda self: nullcontext()),
    ):
        yield


@contextmanager
def _loss_as(loss: str) -> Iterator[None]:
    """Let the traced loop compute the loss as transformers does: logits at every position, kept until after backward.

    Until 4.45 they were turned to fp32 and shifted in a copy; since then they are kept as they are and shifted are the
    labels.
    """
    import torch.nn.functional as F

    from trainables import training

    held: list[Any] = []

    def losses(model: Callable[..., Any], head: Any, batch: Any) -> Any:
        logits = model(input_ids=batch.input_ids, use_cache=False).logits
        if loss == "transformers 4.45":
            logits = logits.float()
            scores = logits[:, :-1].contiguous().flatten(0, 1)
            targets = batch.targets
        else:
            scores, targets = logits.float().flatten(0, 1), batch.input_ids.flatten()
        held.append(logits)
        return F.cross_entropy(scores, targets, reduction="none")

    with patch.object(training, "token_losses", losses) if loss != "ours" else nullcontext():
        yield
    held.clear()


def _head_only(arch: Architecture, row: PublishedRow) -> int:
    """ColossalChat's LoRA as its code ran: re-entrant checkpoints of frozen embeddings keep nothing for backward.

    What is left at the loss is the bf16 model and all its adapters, the hidden states that the head's adapter reads, and
    the logits as transformers had them: in fp32, shifted in a copy, then their log-probabilities and gradients.
    """
    shapes = linear_shapes(arch).values()
    tokens, vocab, hidden = row.examples * row.seq_len, arch.vocab_size, arch.hidden_size
    ends = 2 * (vocab + hidden)  # coati adapts embeddings and head, too
    adapters = row.rank * (ends + arch.num_layers * sum(shape.inputs + shape.outputs for shape in shapes))
    shifted = (tokens - row.examples) * vocab
    return 2 * (count_parameters(arch) + adapters + tokens * hidden) + 4 * (tokens * vocab + 3 * shifted)
