"""Splitting examples into training, validation and test without leaks: by group."""

from collections.abc import Sequence
from itertools import chain

import numpy as np

from search.errors import InputError
from trainables.settings import DataSettings

# Validation and test get a fifth each, and a standard error over examples needs two: 2 x 5.
MINIMUM_EXAMPLES = 10
MINIMUM_GROUPS = 3  # one for each split
# Assumed, not tuned: groups of up to 1/8 of a split go first, so that it has about eight groups or more. A
# standard error over examples says little when most of them come from one group.
_SHARE = 8


def split_by_group(groups: Sequence[str], settings: DataSettings) -> dict[str, list[int]]:
    """Indices of the examples in ``train``, ``validation`` and ``test``; no group is in two of them.

    The groups are shuffled by ``settings.split_seed`` and fill first test, then validation, up to the limits
    in ``settings`` and a fifth of the examples. Small groups go first, so that a split has many; a group too
    large for the room left is passed over.

    Args:
        groups: the group of every example.
        settings: the limits and the seed.

    Raises:
        InputError: fewer than `MINIMUM_EXAMPLES` examples or `MINIMUM_GROUPS` groups.
    """
    members: dict[str, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    if len(groups) < MINIMUM_EXAMPLES:
        raise InputError(
            f"{settings.source!r} has {len(groups)} examples; at least {MINIMUM_EXAMPLES} are needed"
        )
    if len(members) < MINIMUM_GROUPS:
        raise InputError(
            f"no leak-free split of {settings.source!r} is possible: its {len(groups)} examples are in"
            f" {len(members)} group(s), by their {settings.group_column!r} column or else by equal prompts;"
            f" at least {MINIMUM_GROUPS} are needed"
        )
    names = sorted(members)  # so that the split does not depend on the order of rows of different groups
    shuffled = [members[names[i]] for i in np.random.default_rng(settings.split_seed).permutation(len(names))]
    fifth = len(groups) // 5
    test, shuffled = _take(shuffled, min(settings.test_examples, fifth), leave=2)
    validation, shuffled = _take(shuffled, min(settings.validation_examples, fifth), leave=1)
    return {"train": sorted(chain.from_iterable(shuffled)), "validation": validation, "test": test}


def _take(groups: list[list[int]], limit: int, leave: int) -> tuple[list[int], list[list[int]]]:
    """Members of whole groups that fit into ``limit``, and the groups that remain, at least ``leave``.

    If not one fits, it is the smallest group's first members; its others then belong to no split.
    """
    taken: list[int] = []
    rest: list[list[int]] = []
    small_first = sorted(groups, key=lambda group: len(group) > limit // _SHARE)  # otherwise in their order
    for position, group in enumerate(small_first):
        enough_left = len(rest) + len(groups) - position > leave
        if enough_left and len(taken) + len(group) <= limit:
            taken += group
        else:
            rest.append(group)
    if not taken:
        smallest = min(rest, key=len)
        taken = smallest[:limit]
        rest.remove(smallest)
    return sorted(taken), rest
