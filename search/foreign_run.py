"""Before a run folder is written to again: it may have come from somebody else, or from a damaged disk."""

import re

from analysis.inside import check_links
from analysis.records import Event, RunPaths
from analysis.results import latest_trials, read_events
from search.errors import InputError

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
