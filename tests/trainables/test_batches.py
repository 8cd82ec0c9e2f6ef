"""The order of examples is the seed's alone; padding changes no target."""

from collections import Counter
from itertools import chain, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainables.batches import collate, longest_micro_batch, plan_rungs, split_micro, without_targets
from trainables.chat import TokenizedExample
from trainables.shard import Shard

rung_lists = st.lists(st.integers(1, 60), min_size=1, max_size=4, unique=True).map(lambda r: tuple(sorted(r)))


def lengths_of(n_examples: int) -> list[int]:
    return [5 + (7 * index) % 11 for index in range(n_examples)]


@given(st.integers(1, 40), rung_lists, st.integers(1, 9), st.integers(0, 99))
def test_a_rung_is_hit_exactly_by_batches_of_like_length(
    n_examples: int, rungs: tuple[int, ...], batch_size: int, seed: int
) -> None:
    lengths = lengths_of(n_examples)
    plan = plan_rungs(n_examples, rungs, batch_size, seed, lengths)
    seen = 0
    for rung, batches in zip(rungs, plan, strict=True):
        sizes = sorted(map(len, batches), reverse=True)
        seen += sum(sizes)
        assert seen == rung
        assert all(size == batch_size for size in sizes[:-1])
        ranges = sorted((min(lengths[i] for i in batch), max(lengths[i] for i in batch)) for batch in batches)
        assert all(longest <= shortest for (_, longest), (shortest, _) in pairwise(ranges))
    assert plan == plan_rungs(n_examples, rungs, batch_size, seed, lengths)


@given(st.integers(1, 40), rung_lists, st.integers(1, 9), st.integers(1, 9), st.integers(0, 99))
def test_what_a_rung_sees_does_not_depend_on_the_batch_size(
    n_examples: int, rungs: tuple[int, ...], one: int, other: int, seed: int
) -> None:
    plans = [plan_rungs(n_examples, rungs, size, seed, lengths_of(n_examples)) for size in (one, other)]
    for first, second in zip(*plans, strict=True):
        assert Counter(chain.from_iterable(first)) == Counter(chain.from_iterable(second))


@given(st.integers(1, 20), st.integers(1, 4), st.integers(0, 99))
def test_every_example_once_per_epoch(n_examples: int, epochs: int, seed: int) -> None:
    rungs = tuple(n_examples * (epoch + 1) for epoch in range(epochs))
    for batches in plan_rungs(n_examples, rungs, 3, seed, lengths_of(n_examples)):
        assert sorted(chain.from_iterable(batches)) == list(range(n_examples))


def test_seeds_and_epochs_differ() -> None:
    plans = [plan_rungs(50, (25, 50, 75), 5, seed, lengths_of(50)) for seed in (0, 1)]
    assert plans[0] != plans[1]
    first, _, third = (set(chain.from_iterable(batches)) for batches in plans[0])
    assert first != third


def test_a_longer_resource_begins_alike() -> None:
    short, long = (plan_rungs(50, rungs, 4, 0, lengths_of(50)) for rungs in ((16, 48), (16, 48, 144)))
    assert long[:2] == short


def test_batches_come_in_random_order() -> None:
    lengths = list(range(100))
    (batches,) = plan_rungs(100, (100,), 5, 0, lengths)
    assert batches != sorted(batches)


def test_the_longest_micro_batch() -> None:
    lengths = [10, 1, 1, 6, 6]
    plan = [[[1, 2, 0], [3, 4]]]
    assert longest_micro_batch(plan, lengths, 3) == [1, 2, 0]
    assert longest_micro_batch(plan, lengths, 2) == [3, 4]
    assert longest_micro_batch(plan, lengths, 1) == [0]
    # Two devices: the first micro-batch gives one of them two examples of up to 10 tokens, the other gives each one.
    assert longest_micro_batch(plan, lengths, 4, devices=2) == [1, 2, 0]
    assert longest_micro_batch([[[0], [3, 4]]], lengths, 2, devices=2) == [0]


@given(st.lists(st.integers(), max_size=30), st.integers(1, 9))
def test_devices_share_without_overlap_or_loss(items: list[int], devices: int) -> None:
    shares = [Shard(rank, devices).part(items) for rank in range(devices)]
    assert Counter(chain.from_iterable(shares)) == Counter(items)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    for rank, share in enumerate(shares):
        held = [item for index, item in enumerate(items) if Shard(rank, devices).holds(index)]
        assert share == held


def test_a_batch_without_targets_keeps_its_tokens() -> None:
    batch = collate([tokenized([5, 6, 7], [0, 1, 1]), tokenized([8, 9], [0, 1])], pad_token_id=0)
    empty = without_targets(batch)
    assert empty.input_ids is batch.input_ids
    assert len(empty.targets) == len(empty.example_of_target) == int(empty.positions.sum()) == 0
    assert int(batch.positions.sum()) == len(batch.targets) > 0


@given(st.lists(st.integers(), max_size=30), st.integers(1, 40))
def test_micro_batches_are_the_batch(batch: list[int], size: int) -> None:
    micro = split_micro(batch, size)
    assert list(chain.from_iterable(micro)) == batch
    assert all(0 < len(piece) <= size for piece in micro)


def tokenized(ids: list[int], supervised: list[int]) -> TokenizedExample:
    return TokenizedExample(np.array(ids, dtype=np.int32), np.array(supervised, dtype=bool))


def test_collate() -> None:
    batch = collate(
        [tokenized([5, 6, 7], [0, 0, 1]), tokenized([1, 2, 3, 4, 8], [0, 1, 0, 1, 1])], pad_token_id=9
    )
    assert batch.input_ids.tolist() == [[5, 6, 7, 9, 9], [1, 2, 3, 4, 8]]
    assert batch.attention_mask.tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
    assert batch.positions.int().tolist() == [[0, 1, 0, 0, 0], [1, 0, 1, 1, 0]]
    assert batch.targets.tolist() == [7, 2, 4, 8]
    assert batch.example_of_target.tolist() == [0, 1, 1, 1]
    assert str(batch.input_ids.dtype) == str(batch.targets.dtype) == "torch.int64"


random_examples = st.lists(
    st.lists(st.tuples(st.integers(0, 50), st.booleans()), min_size=2, max_size=12), min_size=1, max_size=5
)


@settings(deadline=None)  # the first one imports torch
@given(random_examples, st.integers(0, 50))
def test_padding_changes_no_target(pairs: list[list[tuple[int, bool]]], pad_token_id: int) -> None:
    examples = [tokenized([i for i, _ in pair], [0] + [int(s) for _, s in pair[1:]]) for pair in pairs]
    together = collate(examples, pad_token_id)
    alone = [collate([example], pad_token_id) for example in examples]
    assert together.targets.tolist() == list(chain.from_iterable(batch.targets.tolist() for batch in alone))
    for row, batch in enumerate(alone):
        assert together.example_of_target.tolist().count(row) == len(batch.targets)
    # the pairing that the loss relies on: a marked position's next token is its target
    rows, columns = together.positions.nonzero(as_tuple=True)
    assert together.input_ids[rows, columns + 1].tolist() == together.targets.tolist()


@pytest.mark.parametrize("field", ["positions", "example_of_target"])
def test_an_example_without_targets_is_no_trouble(field: str) -> None:
    batch = collate([tokenized([1, 2], [0, 0])], 0)
    assert batch.targets.numel() == getattr(batch, field).sum() == 0
