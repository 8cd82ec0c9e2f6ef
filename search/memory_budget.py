"""What `--memory-budget` lets run: predictions, corrected by what trials on this device needed in fact."""

import re
from statistics import median

from analysis.memory_error import memory_ratio
from analysis.records import Event, TrialRecord
from search.journal import Journal
from search.plan import SweepPlan
from search.recorder import new_record
from search.units import format_memory
from trainables.settings import TrialSpec


class MemoryBudget:
    """Judges configs before they run. Trials of earlier launches, and those taken over, count as well.

    Full fine-tuning does not: its peak is of another kind. Nor do trials that ran on another kind of device.
    """

    def __init__(self, plan: SweepPlan, journal: Journal) -> None:
        self._plan, self._journal = plan, journal
        self._ratios: dict[str, float | None] = {}  # None: measured elsewhere
        self._device = device_kind(plan.machine.description)
        for event in journal.events:
            self._listen(event)
        journal.listeners.append(self._listen)

    def _listen(self, event: Event) -> None:
        """Take note of a measured trial, and of the device that a launch ran on."""
        device = (event.sweep or {}).get("device")
        if device is not None:
            self._device = device_kind(str(device))
        trial, here = event.trial, device_kind(self._plan.machine.description)
        ratio = memory_ratio(trial) if trial is not None and trial.kind == "lora" else None
        if trial is not None and ratio is not None:
            # Once: a trial that goes on elsewhere keeps what was measured before.
            self._ratios.setdefault(trial.trial_id, ratio if self._device == here else None)

    @property
    def correction(self) -> float | None:
        """The median of measured over predicted memory; None while nothing was measured."""
        ratios = [ratio for ratio in self._ratios.values() if ratio is not None]
        return median(ratios) if ratios else None

    def needed_bytes(self, spec: TrialSpec) -> float:
        """What a trial is expected to need: its prediction, corrected."""
        return self._plan.predict_memory(spec) * (self.correction or 1.0)

    def admit(self, spec: TrialSpec) -> bool:
        """Whether a trial may run; one that may not is recorded as infeasible."""
        budget = self._plan.config.memory_budget
        if budget is None or self.needed_bytes(spec) <= budget:
            return True
        self._journal.trial("ended", self._refused(spec, budget))
        return False

    def _refused(self, spec: TrialSpec, budget: int) -> TrialRecord:
        predicted = self._plan.predict_memory(spec)
        needed = self.needed_bytes(spec)
        corrected = (
            "" if self.correction is None else f", {format_memory(round(needed))} as trials went so far"
        )
        update = {
            "status": "infeasible",
            "memory_source": "predicted",
            "memory_correction": self.correction,
            "error": f"predicted {format_memory(predicted)}{corrected}, over the budget of {format_memory(budget)}",
        }
        return new_record(spec, predicted).model_copy(update=update)


def device_kind(description: str) -> str:
    """A machine's description without how many devices it has.

    >>> device_kind("8 x NVIDIA H100 80GB HBM3"), device_kind("2 CPU cores")
    ('NVIDIA H100 80GB HBM3', 'CPU cores')
    """
    return re.sub(r"^\d+ (x )?", "", description)
