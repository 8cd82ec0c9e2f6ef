"""Which examples a trial sees, in which order and batches, and tensors of them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from trainables.chat import TokenizedExample

if TYPE_CHECKING:
    import torch


def plan_rungs(
    n_examples: int, rungs: tuple[int, ...], batch_size: int, seed: int, lengths: Sequence[int]
) -> list[list[list[int]]]:
    """The optimizer batches of every rung, as indices of examples.

    All trials with one seed see the same examples up to a rung, whatever their batch size: one random
    permutation per epoch, one after the other, cut at the rungs. Within a rung, examples of like length
    share a batch (less padding), one batch may be smaller (so that the rung is hit exactly), and the
    batches come in random order.

    Args:
        n_examples: training examples there are.
        rungs: numbers of examples seen, ascending; may exceed ``n_examples``, which are then repeated.
        batch_size: examples per optimizer step.
        seed: of the order.
        lengths: tokens of every example.

    Returns:
        Per rung its batches, each a list of indices.
    """
    epochs = -(-rungs[-1] // n_examples)
    order = np.concatenate(
        [np.random.default_rng([seed, epoch]).permutation(n_examples) for epoch in range(epochs)]
    )
    plan = []
    for start, stop in pairwise((0, *rungs)):
        by_length = sorted(order[start:stop].tolist(), key=lambda index: lengths[index])
        batches = split_micro(by_length, batch_size)
        # Three numbers, so that it is no epoch's generator; the rung, so that later rungs change nothing.
        shuffled = np.random.default_rng([seed, stop, 1]).permutation(len(batches))
        plan.append([batches[position] for position in shuffled])
    return plan


def split_micro(batch: list[int], micro_batch_size: int) -> list[list[int]]:
    """The batch in pieces of at most ``micro_batch_size`` examples, in order.

    >>> split_micro([3, 1, 4, 1, 5], 2)
    [[3, 1], [4, 1], [5]]
    """
    return [batch[start : start + micro_batch_size] for start in range(0, len(batch), micro_batch_size)]


def longest_micro_batch(
    plan: list[list[list[int]]], lengths: Sequence[int], micro_batch_size: int, devices: int = 1
) -> list[int]:
    """The micro-batch of the whole plan with most tokens, padding included: it needs most memory.

    ``devices`` share each micro-batch of ``micro_batch_size`` examples; what counts is the largest share.
    """
    micro_batches = [
        micro for batches in plan for batch in batches for micro in split_micro(batch, micro_batch_size)
    ]
    return max(
        micro_batches, key=lambda micro: -(-len(micro) // devices) * max(lengths[index] for index in micro)
    )


@dataclass(frozen=True, eq=False)
class Batch:
    """B examples padded on the right to T tokens, with N targets in all.

    ``positions`` marks where the next token is a target, so that ``hidden[positions]`` (``[N, hidden]`` out
    of ``[B, T, hidden]``) pairs with ``targets``, row by row.

    Attributes:
        input_ids: ``[B, T]`` int64.
        attention_mask: ``[B, T]`` int64, 1 at tokens and 0 at padding.
        targets: ``[N]`` int64.
        positions: ``[B, T]`` bool.
        example_of_target: ``[N]`` int64, the row in the batch of every target.
    """

    input_ids: "torch.Tensor"
    attention_mask: "torch.Tensor"
    targets: "torch.Tensor"
    positions: "torch.Tensor"
    example_of_target: "torch.Tensor"


def collate(examples: Sequence[TokenizedExample], pad_token_id: int) -> Batch:
    """The examples as one padded batch on the CPU."""
    import torch

    shape = len(examples), max(len(example.input_ids) for example in examples)
    input_ids = torch.full(shape, pad_token_id, dtype=torch.int64)
    attention_mask = torch.zeros(shape, dtype=torch.int64)
    supervised = torch.zeros(shape, dtype=torch.bool)
    for row, example in enumerate(examples):
        length = len(example.input_ids)
        input_ids[row, :length] = torch.from_numpy(example.input_ids)
        attention_mask[row, :length] = 1
        supervised[row, :length] = torch.from_numpy(example.supervised)
    positions = torch.zeros(shape, dtype=torch.bool)
    positions[:, :-1] = supervised[:, 1:]
    targets = input_ids[:, 1:][supervised[:, 1:]]
    return Batch(input_ids, attention_mask, targets, positions, positions.nonzero()[:, 0])


def without_targets(batch: Batch) -> Batch:
    """The batch with nothing to learn: its loss is a sum of no terms, and its gradients are zero.

    For a device that has no example of a small batch: it must compute something, as the others wait for its gradients.
    """
    return replace(
        batch,
        targets=batch.targets[:0],
        positions=batch.positions & ~batch.positions,
        example_of_target=batch.example_of_target[:0],
    )
