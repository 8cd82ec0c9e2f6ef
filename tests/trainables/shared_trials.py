"""Trials of the tests of plugins, on one device or shared by several."""

from pathlib import Path
from typing import Any

from trainables.modules import LLAMA_PATHS, names_of
from trainables.settings import ExecutionSettings, TrialConfig, TrialSpec

LLAMA_MODULES = names_of(LLAMA_PATHS)


def spec(folder: Path, devices: int = 1, kind: str = "lora", **execution: Any) -> TrialSpec:
    """A trial of two rungs on batches of four, with the given settings of its execution."""
    return TrialSpec(
        trial_id="t0001",
        kind=kind,  # type: ignore[arg-type]
        config=TrialConfig(learning_rate=1e-2 if kind == "lora" else 1e-3, batch_size=4, rank=4),
        execution=ExecutionSettings(devices_per_trial=devices, **execution),
        target_modules=() if kind == "full" else LLAMA_MODULES,
        rungs=(5, 25),
        base_model_path=str(folder),
    )
