"""Picking the trial of a front that serves a purpose."""

from analysis.execution import Choice, best_under, own_choice
from analysis.front import front_members, picks
from analysis.records import Front, TrialRecord
from search.errors import InputError
from search.units import parse_memory

WAYS = "knee, quality, memory, under:SIZE (such as under:16GiB) or a trial's id"


def pick(front: Front, how: str) -> TrialRecord:
    """The trial that ``how`` names: see `choose`."""
    return choose(front, how).trial


def choose(front: Front, how: str) -> Choice:
    """What ``how`` names: knee, best quality, least memory, best quality under:SIZE, or an id.

    Trials are chosen as they were executed, but for ``under:SIZE``: there the best quality counts that fits with any of
    the execution variants.

    Raises:
        InputError: nothing is completed, nothing fits (the nearest alternative is named), or no such trial.
    """
    members = front_members(front)
    if how in ("knee", "quality", "memory") or how.startswith("under:"):
        if not members:
            raise InputError(f"run {front.name!r} has no completed trial to pick from")
        if how.startswith("under:"):
            return best_under(members, parse_memory(how.removeprefix("under:")))
        return own_choice(picks(members)[how])
    return own_choice(_by_id(front, how))


def _by_id(front: Front, trial_id: str) -> TrialRecord:
    trials = {trial.trial_id: trial for trial in front.trials}
    if trial_id not in trials:
        completed = ", ".join(t.trial_id for t in front.trials if t.status == "completed") or "none"
        raise InputError(f"--pick {trial_id!r} is neither {WAYS}; completed trials: {completed}")
    trial = trials[trial_id]
    if trial.status != "completed":
        raise InputError(f"trial {trial_id} is {trial.status}, and only a completed one can be exported")
    return trial
