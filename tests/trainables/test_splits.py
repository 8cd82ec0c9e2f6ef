"""No group in two splits, whatever the groups look like."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.errors import InputError
from trainables.settings import DataSettings
from trainables.splits import MINIMUM_EXAMPLES, split_by_group


def grouped(*sizes: int) -> list[str]:
    return [f"g{number}" for number, size in enumerate(sizes) for _ in range(size)]


@given(
    st.lists(st.integers(1, 40), min_size=3, max_size=30).filter(
        lambda sizes: sum(sizes) >= MINIMUM_EXAMPLES
    ),
    st.integers(1, 20),
    st.integers(1, 20),
    st.integers(0, 99),
)
def test_splits_are_apart_and_within_limits(sizes: list[int], validation: int, test: int, seed: int) -> None:
    groups = grouped(*sizes)
    limits = DataSettings(validation_examples=validation, test_examples=test, split_seed=seed)
    splits = split_by_group(groups, limits)
    members = {name: {groups[index] for index in indices} for name, indices in splits.items()}
    assert not members["train"] & members["validation"]
    assert not members["train"] & members["test"]
    assert not members["validation"] & members["test"]
    assert all(splits.values())
    assert len(splits["validation"]) <= min(validation, len(groups) // 5)
    assert len(splits["test"]) <= min(test, len(groups) // 5)
    assert splits == split_by_group(groups, limits)


def test_a_small_set_gives_a_fifth_to_each() -> None:
    splits = split_by_group(grouped(*[1] * 10), DataSettings())
    assert {name: len(indices) for name, indices in splits.items()} == {
        "train": 6,
        "validation": 2,
        "test": 2,
    }


def test_a_group_that_is_too_large_is_passed_over() -> None:
    groups = grouped(500, *[5] * 100)
    for seed in range(5):
        splits = split_by_group(groups, DataSettings(split_seed=seed))
        assert len(splits["validation"]) == len(splits["test"]) == 60
        assert set(range(500)) <= set(splits["train"])


def test_no_few_groups_dominate_a_split() -> None:
    groups = grouped(*[40, 4] * 50)
    for seed in range(5):
        splits = split_by_group(groups, DataSettings(split_seed=seed))
        for name in ("validation", "test"):
            assert len({groups[index] for index in splits[name]}) == 16


def test_where_every_group_is_too_large_a_part_of_one_is_taken() -> None:
    splits = split_by_group(grouped(500, 300, 200), DataSettings())
    assert splits["test"] == list(range(800, 864))
    assert splits["validation"] == list(range(500, 564))
    assert splits["train"] == list(range(500))


def test_the_seed_changes_the_split() -> None:
    groups = grouped(*[1] * 200)
    first, second = (split_by_group(groups, DataSettings(split_seed=seed))["test"] for seed in (0, 1))
    assert first != second


@pytest.mark.parametrize(
    ("sizes", "reason"),
    [((1,) * 9, "has 9 examples; at least 10"), ((50,), "no leak-free split"), ((50, 5), "in 2 group")],
)
def test_too_small(sizes: tuple[int, ...], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        split_by_group(grouped(*sizes), DataSettings())
