"""What a traced step's live bytes did: every storage's lifetime, sorted into categories afterwards."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from trainables.lifetimes import Lifetimes
from trainables.memory import LiveBytesCounter
from trainables.timeline import BACKWARD, CATEGORIES, FORWARD, UPDATE, Phase

HOST = "host"  # not on the device, so not in a timeline


class Lifetime(NamedTuple):
    """A storage: alive after the operators ``birth`` to ``death``, both included; ``category`` if known at birth."""

    birth: int
    death: int
    size_bytes: int
    category: str | None


class LifetimeCounter(LiveBytesCounter):
    """A `LiveBytesCounter` that also remembers when each storage came and went.

    Call `begin_phase` at the phases' borders, and `begin_recomputing` and `end_recomputing` around what
    checkpointing computes again. With ``offloads`` the optimizer and the gradients that it reads are the host's.
    """

    def __init__(self, offloads: bool = False) -> None:
        super().__init__()
        self._offloads = offloads
        self.operators: list[str] = []
        self._phases: list[Phase] = []
        self._recomputed: list[list[int]] = []
        self._births: dict[int, tuple[int, str | None]] = {}
        self._lifetimes: list[Lifetime] = []
        self._registering: str | None = "gradients"  # what nobody registered: DDP's buckets

    def register_as(self, category: str, tensors: Iterable[Tensor]) -> None:
        """Count ``tensors`` that are already alive, under a category."""
        self._registering = category
        self.register(tensors)
        self._registering = "gradients"

    def begin_phase(self, name: str) -> None:
        """What follows belongs to ``name``."""
        self._phases.append(Phase(name, len(self.operators)))

    @property
    def phase(self) -> str:
        """The name of the current phase."""
        return self._phases[-1].name if self._phases else FORWARD

    def begin_recomputing(self) -> None:
        """A checkpointed layer is run again from here."""
        self._recomputed.append([len(self.operators), len(self.operators)])

    def end_recomputing(self) -> None:
        """The checkpointed layer is back."""
        self._recomputed[-1][1] = len(self.operators)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if (
            func is torch.ops.prim.device.default
        ):  # autograd asks for it all the time: half the time of a trace
            return torch.device("cpu")
        return super().__torch_dispatch__(func, types, args, kwargs)

    def _count_as_older(self, storage: torch.UntypedStorage) -> None:
        if id(storage) not in self._live:
            self._count(storage)
            self._births[id(storage)] = (0, "gradients")
            self.peak_bytes += storage.nbytes()

    def _count(self, storage: torch.UntypedStorage) -> None:
        key = id(storage)
        known = self._live.get(key)
        if known is not None:
            if known[1] == storage.nbytes():
                return
            self._end(key)  # resized: the old one goes, a new one comes
        super()._count(storage)
        older = not self._phases
        self._births[key] = (0, self._registering) if older else (len(self.operators), None)

    def _forget(self, key: int) -> None:
        self._end(key)
        super()._forget(key)

    def _end(self, key: int) -> None:
        birth, category = self._births.pop(key)
        death = len(self.operators) - 1
        if death >= birth:
            self._lifetimes.append(Lifetime(birth, death, self._live[key][1], category))

    def _note_peak(self, operator: str) -> None:
        self.operators.append(operator)
        super()._note_peak(operator)

    def _stepped(self) -> int:
        """The operator that steps the optimizer."""
        return next(
            (i for i, name in enumerate(self.operators) if "fused_adamw" in name), len(self.operators)
        )

    def lifetimes(self, logit_elements: int) -> Lifetimes:
        """What was counted, in the order of births. Tensors of ``logit_elements`` elements have the logits' shape."""
        last = len(self.operators) - 1
        alive = [
            Lifetime(birth, last, self._live[key][1], category)
            for key, (birth, category) in self._births.items()
        ]
        found = [
            (each.birth, each.death, each.size_bytes, CATEGORIES.index(category))
            for each in (*self._lifetimes, *alive)
            if (category := each.category or self._category(each, logit_elements)) != HOST and each.size_bytes
        ]
        found.sort(key=lambda each: each[:2])
        births, deaths, sizes, columns = np.array(found, dtype=np.int64).T
        return Lifetimes(births, deaths, sizes, columns, tuple(self.operators), tuple(self._phases))

    def _category(self, lifetime: Lifetime, logit_elements: int) -> str:
        """By what became of it: what outlives its phase was made for the next one."""
        bounds = [phase.start for phase in self._phases] + [len(self.operators)]
        index = max(i for i, start in enumerate(bounds[:-1]) if start <= lifetime.birth)
        name, outlives = self._phases[index].name, lifetime.death >= bounds[index + 1] - 1
        if name != UPDATE and lifetime.size_bytes in (2 * logit_elements, 4 * logit_elements):
            return "logits_and_loss"
        if name == UPDATE and self._offloads and lifetime.birth < self._stepped() <= lifetime.death:
            return HOST
        if name == FORWARD:
            return "activations" if outlives else "temporary"
        if name == BACKWARD and outlives:
            return "gradients"
        again = (end for start, end in self._recomputed if start <= lifetime.birth < end)
        return "activations" if lifetime.death >= next(again, len(self.operators)) else "temporary"
