"""Before a run folder is written to again: it may come from somebody else, a damaged disk, or other software."""

import re
from collections.abc import Mapping
from typing import Any

from analysis.inside import check_links
from analysis.records import Event, RunPaths
from analysis.results import latest_trials, read_events
from search.environment import software_versions
from search.errors import InputError

_SHAPE_RESULTS = ("torch", "transformers", "peft")  # of what runs record: losses and memory come from these

# What this program names its trials; the names become folders of Ray Tune's and parts of MLflow's runs.
_TRIAL_ID = {
    "lora": re.compile(r"[tw][0-9]{4,}"),
    "full": re.compile(r"baseline"),
    "replicate": re.compile(r"[tw][0-9]{4,}-seed[0-9]+"),
}


def check_own(paths: RunPaths) -> list[Event]:
    """The events of a run, after making sure that going on with it writes nowhere but into its folder.

    Raises:
        InputError: a link leads out of the folder, or a trial has a name that this program gives to none.
    """
    check_links(paths.root)
    events = read_events(paths.trials_jsonl) if paths.trials_jsonl.exists() else []
    for name, trial in latest_trials(events).items():
        if not _TRIAL_ID[trial.kind].fullmatch(name):
            raise InputError(f"{paths.trials_jsonl}: {name!r} is no name of a {trial.kind} trial")
    return events


def other_software(facts: Mapping[str, Any]) -> str | None:
    """What a run was made with and is not installed here, such as ``torch 2.5.1, peft 0.13.2``; None if all is the same.

    Args:
        facts: what the run's ``sweep`` events say. Builds of one version (2.5.1+cpu, 2.5.1+cu124) count as one.
    """
    recorded, here = facts.get("versions"), software_versions()
    if not isinstance(recorded, Mapping):
        return None
    then = {name: str(recorded[name]).partition("+")[0] for name in _SHAPE_RESULTS if name in recorded}
    others = [f"{name} {found}" for name, found in then.items() if found != here[name].partition("+")[0]]
    return ", ".join(others) or None
