"""Picking the trial of a front that serves a purpose."""

from analysis.front import front_members, picks
from analysis.records import Front, TrialRecord
from search.errors import InputError
from search.units import format_memory, parse_memory

WAYS = "knee, quality, memory, under:SIZE (such as under:16GiB) or a trial's id"


def pick(front: Front, how: str) -> TrialRecord:
    """The trial that ``how`` names: knee, best quality, least memory, best quality under:SIZE, or an id.

    Raises:
        InputError: nothing is completed, nothing fits (the nearest alternative is named), or no such trial.
    """
    members = front_members(front)
    if how in ("knee", "quality", "memory") or how.startswith("under:"):
        if not members:
            raise InputError(f"run {front.name!r} has no completed trial to pick from")
        named = picks(members)
        return named[how] if how in named else min(_under(members, how), key=_loss)
    return _by_id(front, how)


def _under(members: list[TrialRecord], how: str) -> list[TrialRecord]:
    limit = parse_memory(how.removeprefix("under:"))
    fitting = [trial for trial in members if _memory(trial) <= limit]
    if not fitting:
        nearest = min(members, key=_memory)
        raise InputError(
            f"no trial needs at most {format_memory(limit)}; the nearest is {nearest.trial_id} "
            f"with {format_memory(_memory(nearest))}: --pick {nearest.trial_id}"
        )
    return fitting


def _by_id(front: Front, trial_id: str) -> TrialRecord:
    trials = {trial.trial_id: trial for trial in front.trials}
    if trial_id not in trials:
        completed = ", ".join(t.trial_id for t in front.trials if t.status == "completed") or "none"
        raise InputError(f"--pick {trial_id!r} is neither {WAYS}; completed trials: {completed}")
    trial = trials[trial_id]
    if trial.status != "completed":
        raise InputError(f"trial {trial_id} is {trial.status}, and only a completed one can be exported")
    return trial


def _memory(trial: TrialRecord) -> int:
    return trial.peak_memory_bytes or 0


def _loss(trial: TrialRecord) -> float:
    return float("inf") if trial.eval_loss is None else trial.eval_loss
