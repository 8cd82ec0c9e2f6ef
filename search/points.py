"""The points of a finite search space by number, so that all can be tried and none has to be kept in memory."""

import math
import random
from collections.abc import Iterator

from search.errors import InputError
from search.space import Choices, Dimension, SearchSpace, Value


def value_at(dimension: Dimension, index: int) -> Value:
    """The ``index``-th value of a finite dimension.

    >>> value_at(Choices("rank", (2, 8)), 1)
    8
    """
    if isinstance(dimension, Choices):
        return dimension.values[index]
    # In the order of Optuna's own arithmetic, so that both give the very same number.
    value = index * (dimension.step or 1) + dimension.low
    return int(value) if dimension.integer else min(value, dimension.high)


def point_at(space: SearchSpace, index: int) -> dict[str, Value]:
    """The ``index``-th point of a finite space; the last dimension runs fastest.

    >>> point_at(SearchSpace({"batch_size": [2, 4], "rank": [8, 16, 32]}), 4)
    {'batch_size': 4, 'rank': 16}
    """
    point = {}
    for name, dimension in reversed(space.dimensions.items()):
        index, place = divmod(index, int(dimension.size()))
        point[name] = value_at(dimension, place)
    return {name: point[name] for name in space.dimensions}


def continuous_dimensions(space: SearchSpace) -> list[str]:
    """The names of the dimensions that have no end of values."""
    return [name for name, dimension in space.dimensions.items() if math.isinf(dimension.size())]


def check_grid(space: SearchSpace) -> None:
    """Refuse a space that no grid can cover.

    Raises:
        InputError: a dimension is continuous.
    """
    endless = continuous_dimensions(space)
    if endless:
        raise InputError(
            f"sampler: grid needs a finite space, but {' and '.join(endless)} has no end of values: give a list "
            f"(such as --set space.{endless[0]}=[...]) or a step, or choose tpe, gp, nsga2 or random"
        )


def shuffled_points(space: SearchSpace, seed: int) -> Iterator[dict[str, Value]]:
    """Every point of a finite space once, beginning at a random one.

    The walk goes in steps that share no factor with the number of points, so it meets each before it comes round.
    """
    size, generator = int(space.size()), random.Random(seed)
    start, step = generator.randrange(size), generator.randrange(1, size + 1)
    while math.gcd(step, size) != 1:
        step += 1
    return (point_at(space, (start + count * step) % size) for count in range(size))
