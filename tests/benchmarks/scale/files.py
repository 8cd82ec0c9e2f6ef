"""How many files a trial leaves: counted in a small real sweep of a tiny random model."""

import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from analysis.results import load_run
from tests.benchmarks.growth.points import TINY, lines
from tests.benchmarks.rivals.measure import ROOT, environment

TRIALS = 6
DATA_ROWS = 200


def count_files(folder: Path) -> dict[str, Any]:
    """Run the sweep into ``folder/run``; files and bytes in ``tune/``, per trial, and their names there."""
    from tests.tiny import tiny_llama

    (folder / "marks").mkdir(parents=True)
    data = folder / "data.jsonl"
    data.write_text("".join(lines(DATA_ROWS)))
    command = [str(Path(sys.executable).with_name("lorafront")), "sweep", "--data", str(data)]
    command += ["--base-model", str(tiny_llama(folder / "model")), "--out", str(folder / "run"), *TINY]
    command += ["--trials", str(TRIALS), "--concurrent", "2"]
    subprocess.run(
        command, check=True, env=environment(folder / "marks"), cwd=ROOT, stdout=subprocess.DEVNULL
    )
    run = load_run(folder / "run")
    found = [path for path in run.paths.tune.rglob("*") if path.is_file()]
    trials = [path for path in found if len(path.relative_to(run.paths.tune).parts) > 2]
    checkpoints = {path.parent for path in trials if path.name == "state.json"}
    return {
        "trials": TRIALS,
        "rungs": sum(len(trial.rungs) for trial in run.front.trials),
        "files_per_trial": len(trials) / TRIALS,
        "checkpoints_per_trial": len(checkpoints) / TRIALS,
        "files_of_tune_itself": len(found) - len(trials),
        "names": Counter(path.name for path in trials),
    }
