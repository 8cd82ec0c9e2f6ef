"""The micro-batch of a trial that needs most memory: the very one on which the trial measures its peak."""

from functools import cached_property
from typing import NamedTuple

from trainables.batches import longest_micro_batch, plan_rungs
from trainables.data import PreparedData
from trainables.settings import TrialSpec


class MicroBatch(NamedTuple):
    """What one device computes at once: ``examples`` padded to ``seq_len`` tokens.

    ``supervised_positions`` are those of all its examples whose next token is an answer's. ``accumulates`` says whether
    an optimizer step takes several.
    """

    examples: int
    seq_len: int
    supervised_positions: int
    accumulates: bool


class LongestBatches:
    """The longest micro-batches of a sweep's trials, found as `trainables.training` finds them."""

    def __init__(self, data: PreparedData) -> None:
        self._data = data
        self._known: dict[tuple[object, ...], MicroBatch] = {}
        self._plan: tuple[tuple[object, ...], list[list[list[int]]]] | None = None

    def of(self, spec: TrialSpec) -> MicroBatch:
        """That of a trial, whose seed orders the examples; of the device with most tokens where several share it."""
        devices = spec.execution.devices_per_trial
        per_device = max(1, spec.config.batch_size // devices)
        together = devices * spec.execution.micro_batch(per_device)
        key = (spec.rungs, spec.config.batch_size, spec.seed, together, devices)
        if key not in self._known:
            longest = longest_micro_batch(self._batches_of(spec), self._lengths, together, devices)
            shares = [longest[rank::devices] for rank in range(min(devices, len(longest)))]
            share = max(shares, key=self._tokens)
            self._known[key] = MicroBatch(
                examples=len(share),
                seq_len=max(self._lengths[index] for index in share),
                supervised_positions=sum(self._supervised[index] for index in share),
                accumulates=spec.config.batch_size > together,
            )
        return self._known[key]

    def _batches_of(self, spec: TrialSpec) -> list[list[list[int]]]:
        """The trial's optimizer batches; the last plan is kept, as one trial is often asked about in several ways."""
        key = (spec.rungs, spec.config.batch_size, spec.seed)
        if self._plan is None or self._plan[0] != key:
            lengths = self._lengths
            self._plan = key, plan_rungs(len(lengths), spec.rungs, spec.config.batch_size, spec.seed, lengths)
        return self._plan[1]

    def _tokens(self, share: list[int]) -> int:
        return len(share) * max(self._lengths[index] for index in share)

    @cached_property
    def _lengths(self) -> list[int]:
        return [len(example.input_ids) for example in self._data.train]

    @cached_property
    def _supervised(self) -> list[int]:
        """Positions per example whose next token is an answer's."""
        return [int(example.supervised[1:].sum()) for example in self._data.train]
