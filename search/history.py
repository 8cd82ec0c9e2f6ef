"""What earlier launches of a sweep left: which trials go on, and what the scheduler and the sampler have to know."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from analysis.inside import checkpoint_inside
from analysis.records import RunPaths, TrialRecord
from search.journal import Journal
from search.plan import BASELINE_ID, SweepPlan
from trainables.settings import TrialConfig, TrialSpec

if TYPE_CHECKING:
    from search.pareto_asha import PastReport
    from search.rung import Report


def was_launched(trial: TrialRecord) -> bool:
    """False for a config that was only predicted, and refused for its memory."""
    return trial.status != "infeasible" or trial.memory_source != "predicted"


def is_own(trial: TrialRecord) -> bool:
    """Whether a record is a trial of this sweep's search: no baseline, no replicate, not taken over from elsewhere."""
    return trial.kind == "lora" and trial.adopted_from is None


def trial_config(trial: TrialRecord) -> TrialConfig:
    """The config of a recorded trial."""
    return TrialConfig.model_validate(
        {k: v for k, v in trial.config.items() if k in TrialConfig.model_fields}
    )


def checkpoint_of(trial: TrialRecord, paths: RunPaths) -> str | None:
    """The folder from which a trial can go on; None where there is none (any more) in the run folder."""
    folder = checkpoint_inside(paths.root, trial.checkpoint)
    return str(folder.resolve()) if folder is not None and (folder / "state.json").exists() else None


def settle(journal: Journal, full: int) -> list[TrialRecord]:
    """Mark as completed, and return, what reached the full resource just before its driver was killed."""
    done = [t for t in journal.trials.values() if t.status == "running" and t.examples_seen == full]
    for trial in done:
        journal.trial("ended", trial.model_copy(update={"status": "completed"}))
    return done


class History:
    """The trials in the journal as of the start of a launch; all of it follows from trials.jsonl."""

    def __init__(self, plan: SweepPlan, journal: Journal, paths: RunPaths) -> None:
        self._plan, self._paths = plan, paths
        self._known = dict(journal.trials)
        self._base = journal.base

    @property
    def lora_trials(self) -> Sequence[TrialRecord]:
        """All trials of the search, also those taken over from an earlier one."""
        return [trial for trial in self._known.values() if trial.kind == "lora"]

    @property
    def unfinished(self) -> Sequence[TrialRecord]:
        """Those that were running."""
        return [trial for trial in self.lora_trials if trial.status == "running"]

    @property
    def pausing(self) -> Sequence[TrialRecord]:
        """Those that were stopped and can go on."""
        return [trial for trial in self.lora_trials if self._can_go_on(trial)]

    def _can_go_on(self, trial: TrialRecord) -> bool:
        return trial.status == "stopped" and self._checkpoint(trial) is not None

    @property
    def next_number(self) -> int:
        """The number of the next new trial."""
        return 1 + max((int(trial.trial_id[1:]) for trial in self.lora_trials if is_own(trial)), default=0)

    def trials_left(self, wanted: int) -> int:
        """How many configs are still to be sampled."""
        return max(0, wanted - sum(was_launched(trial) for trial in self.lora_trials if is_own(trial)))

    def first_specs(self) -> list[TrialSpec]:
        """The baseline, then the unfinished trials from their last checkpoints."""
        config = self._plan.config
        specs = []
        baseline = self._known.get(BASELINE_ID)
        if config.baseline.enabled and (baseline is None or baseline.status == "running"):
            specs.append(self._plan.baseline_spec())
        return specs + [self.resumed(trial.trial_id) for trial in self.unfinished]

    def resumed(self, trial_id: str) -> TrialSpec:
        """The spec with which a trial goes on from its last checkpoint."""
        trial = self._known[trial_id]
        return self._plan.spec(trial_id, trial_config(trial), resume_from=self._checkpoint(trial))

    def _checkpoint(self, trial: TrialRecord) -> str | None:
        return checkpoint_of(trial, self._paths)

    def base(self) -> "Report | None":
        """The untouched model as the scheduler compares it; None until it was evaluated."""
        from search.pareto_asha import base_report_of

        if self._base is None or not self._base.example_losses:
            return None
        return base_report_of({f"base_{name}": value for name, value in self._base.model_dump().items()})

    def reports(self) -> list["PastReport"]:
        """What was found at the rungs, in the order of the trials."""
        from search.pareto_asha import PastReport, report_of

        reports = []
        for trial in self.lora_trials:
            for rung in trial.rungs:
                result = rung.model_dump() | {"peak_memory_bytes": trial.peak_memory_bytes}
                then = self._what_came_then(trial) if rung is trial.rungs[-1] else "went on"
                reports.append(PastReport(trial.trial_id, rung.examples_seen, report_of(result), then))
        return reports

    def _what_came_then(self, trial: TrialRecord) -> Literal["went on", "paused", "ended"]:
        """What became of a trial after its last report."""
        if trial.status == "running":
            return "went on"
        return "paused" if self._can_go_on(trial) else "ended"
