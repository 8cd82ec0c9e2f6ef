"""Which part of a trial's work is this process's, where several devices share a trial."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True)
class Shard:
    """Process number ``rank`` of the trial's ``devices`` processes.

    >>> Shard(1, 2).part([10, 11, 12, 13, 14])
    [11, 13]
    """

    rank: int = 0
    devices: int = 1

    @classmethod
    def of_process(cls) -> "Shard":
        """As this process's group has it."""
        return cls(dist.get_rank(), dist.get_world_size())

    def part(self, items: Sequence[T]) -> list[T]:
        """Every ``devices``-th item, from the ``rank``-th on: no item is in two parts, none is left out.

        Neighbours go to different devices, so that of items in order of length each device gets like ones.
        """
        return list(items[self.rank :: self.devices])

    def holds(self, index: int) -> bool:
        """Whether the item at ``index`` is in this process's part."""
        return index % self.devices == self.rank

    def total(self, tensor: Tensor) -> Tensor:
        """``tensor`` summed over all devices, in place. All of them must ask at the same point."""
        if self.devices > 1:
            dist.all_reduce(tensor)
        return tensor
