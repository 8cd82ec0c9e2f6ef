"""Next-token loss at the supervised positions only, and its mean and standard error over examples."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainables.batches import Batch, collate
from trainables.chat import TokenizedExample
from trainables.shard import Shard

WHOLE = Shard()


class SupervisedHead:
    """Makes a model compute its language-model head at the supervised positions only.

    A hook before the head picks ``hidden[positions]``, so that the model returns logits ``[N, vocab]`` instead of
    ``[B, T, vocab]``. It sits on the head itself, so it works through PEFT, DDP and any causal model, and it
    saves both the time and, with a large vocabulary, most of the memory of the loss.
    """

    def __init__(self, model: nn.Module) -> None:
        self._positions: Tensor | None = None
        head = model.get_output_embeddings()  # type: ignore[operator]
        self._handle = head.register_forward_pre_hook(self._select)

    def _select(self, head: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return inputs if self._positions is None else (inputs[0][self._positions], *inputs[1:])

    @contextmanager
    def at(self, positions: Tensor) -> Iterator[None]:
        """Within the body, the head sees the hidden states at ``positions`` (``[B, T]`` bool) only."""
        self._positions = positions
        try:
            yield
        finally:
            self._positions = None

    def remove(self) -> None:
        """Take the hook off the head again."""
        self._handle.remove()


def token_losses(model: nn.Module, head: SupervisedHead, batch: Batch) -> Tensor:
    """Negative log-likelihood of each target in nats, ``[N]`` float32."""
    # Right padding: without a mask, causal attention gives every real token the same result (it cannot see
    # what comes after it), and the fast attention kernels stay available.
    with head.at(batch.positions):
        logits = model(input_ids=batch.input_ids, use_cache=False).logits
    return F.cross_entropy(logits.float(), batch.targets, reduction="none")


@dataclass(frozen=True)
class EvalResult:
    """Mean loss per supervised token over a split (nats) and its standard error over examples.

    ``sums`` are the summed losses of the examples and ``counts`` their supervised tokens, in the order of the split's
    batches, so that two results on one split can be compared example by example.
    """

    loss: float
    stderr: float
    sums: tuple[float, ...] = ()
    counts: tuple[int, ...] = ()

    @property
    def example_losses(self) -> list[float]:
        """The examples' parts of the loss: their mean is `loss`."""
        scale = len(self.sums) / sum(self.counts)
        return [round(total * scale, 6) for total in self.sums]


def mean_and_stderr(sums: Sequence[float], counts: Sequence[int]) -> EvalResult:
    """The ratio estimator sum(s) / sum(t), and its standard error over the n examples.

    Var = n / (n - 1) sum((s_i - m t_i)^2) / (sum t)^2 (Cochran, Sampling Techniques, on ratio estimators; without
    the finite-population factor). With one example there is no spread to see: the error is 0.
    """
    total, n = sum(counts), len(sums)
    mean = sum(sums) / total
    squares = sum((s - mean * t) ** 2 for s, t in zip(sums, counts, strict=True))
    stderr = math.sqrt(squares * n / (n - 1)) / total if n > 1 else 0.0
    return EvalResult(mean, stderr, tuple(sums), tuple(counts))


def eval_batches(
    examples: Sequence[TokenizedExample], pad_token_id: int, batch_size: int, device: torch.device
) -> list[Batch]:
    """The split as padded batches of like lengths, made once per worker."""
    by_length = sorted(examples, key=lambda example: len(example.input_ids))
    chunks = (by_length[start : start + batch_size] for start in range(0, len(by_length), batch_size))
    return [to_device(collate(chunk, pad_token_id), device) for chunk in chunks]


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch's tensors on ``device``."""
    return Batch(**{name: tensor.to(device) for name, tensor in vars(batch).items()})


def evaluate(
    model: nn.Module, head: SupervisedHead, batches: Sequence[Batch], autocast: Any, shard: Shard = WHOLE
) -> EvalResult:
    """The loss of ``model`` on prepared batches; leaves the model in training mode as it found it.

    With several devices each takes its share of the batches, and all get the result of all batches, exactly: the
    examples' sums are exchanged, not their means.
    """
    was_training = model.training
    model.eval()
    parts: list[Tensor] = []
    with torch.no_grad(), autocast():
        for number, batch in enumerate(batches):
            rows = torch.zeros(2, batch.input_ids.shape[0], dtype=torch.double, device=batch.input_ids.device)
            if shard.holds(number):
                losses = token_losses(model, head, batch).double()
                rows[0].index_add_(0, batch.example_of_target, losses)
                rows[1] = torch.bincount(batch.example_of_target, minlength=rows.shape[1])
            parts.append(rows)
    model.train(was_training)
    sums, counts = shard.total(torch.cat(parts, 1)).tolist()
    return mean_and_stderr(sums, [int(count) for count in counts])
