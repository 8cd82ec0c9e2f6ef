"""One run of one side: the command, its clock, its memory, and what it found."""

import json
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.benchmarks.processes import Measured, run_measured
from tests.benchmarks.rivals.clock import VARIABLE
from tests.benchmarks.rivals.phases import examples_per_trial, read_marks, seconds_per_phase

ROOT = Path(__file__).resolve().parents[3]
HOOK = Path(__file__).parent / "hook"
ASHA_TPE = ("--set", "scheduler=asha", "--set", "sampler=tpe")


@dataclass(frozen=True)
class Side:
    """One competitor: a module of this folder, or lorafront (``module`` None) with these arguments."""

    name: str
    title: str
    module: str | None = None
    arguments: tuple[str, ...] = ()
    target: float | None = None  # how many times ours is to be as fast


SIDES = (
    Side("ours", "lorafront"),
    Side("ours-asha-tpe", "lorafront, ASHA on the loss and TPE as theirs", arguments=ASHA_TPE),
    Side("ray-tune", "(a) Ray Tune + Optuna + ASHA + Trainer + PEFT, as written", "ray_tune", target=5.0),
    Side("ray-tune-tuned", "(a) tuned: bf16 and every cheap improvement", "ray_tune_tuned", target=2.5),
    Side("hf-search", "(b) Trainer.hyperparameter_search(backend='ray')", "hf_search"),
)


@dataclass(frozen=True)
class Settings:
    """What all sides share. ``sweep`` are the arguments of `lorafront sweep` that define model, data and space."""

    out: Path
    job: dict[str, Any]
    sweep: tuple[str, ...]
    trials: int
    workers: int
    timeout: float

    def command(self, side: Side, folder: Path, seed: int) -> list[str]:
        """What is run."""
        shared = ["--trials", str(self.trials), "--seed", str(seed)]
        if side.module is not None:
            module = f"tests.benchmarks.rivals.{side.module}"
            job = str(self.out / "job")
            return [sys.executable, "-m", module, job, str(folder), *shared, "--workers", str(self.workers)]
        own = ["--no-baseline", "--confirm", "0", "--concurrent", str(self.workers)]
        own += ["--set", "execution.threads=1", "--name", side.name, "--out", str(folder / "run")]
        return [
            str(Path(sys.executable).with_name("lorafront")),
            "sweep",
            *self.sweep,
            *shared,
            *own,
            *side.arguments,
        ]


def run_side(side: Side, settings: Settings, seed: int) -> dict[str, Any]:
    """Run one side once, in an empty folder."""
    folder = settings.out / "runs" / f"{side.name}-{seed}"
    shutil.rmtree(folder, ignore_errors=True)
    marks = folder / "marks"
    marks.mkdir(parents=True)
    measured = run_measured(
        settings.command(side, folder, seed),
        log=folder / "log.txt",
        env=environment(marks),
        cwd=ROOT,
        timeout=settings.timeout,
    )
    if measured.returncode != 0:
        why = "timed out" if measured.timed_out else f"exit code {measured.returncode}"
        return {"side": side.name, "seed": seed, "error": why, "tail": measured.tail}
    return {"side": side.name, "seed": seed} | figures(side, settings, folder, measured)


def environment(marks: Path) -> dict[str, str]:
    """Ours with the hook that notes phases; nobody phones home or joins another cluster; one thread per process."""
    known = os.environ.get("PYTHONPATH")
    path = os.pathsep.join([str(HOOK), str(ROOT), *([known] if known else [])])
    fixed = {"PYTHONPATH": path, VARIABLE: str(marks.resolve()), "RAY_USAGE_STATS_ENABLED": "0"}
    fixed |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    return {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | fixed


def figures(side: Side, settings: Settings, folder: Path, measured: Measured) -> dict[str, Any]:
    """What a finished run comes to."""
    processes = read_marks(folder / "marks")
    phases = seconds_per_phase(processes, measured.started, measured.ended, settings.workers)
    found = (
        ours_found(folder / "run")
        if side.module is None
        else theirs_found(folder, processes, settings.job["rungs"][-1])
    )
    tokens = round(found["examples"] * settings.job["mean_tokens"])
    training = phases["train"] * settings.workers
    return found | {
        "makespan_seconds": measured.seconds,
        "phases": phases,
        "tokens": tokens,
        "tokens_per_makespan_second": tokens / measured.seconds,
        "tokens_per_train_second": tokens / training if training else None,
        "seconds_per_token": measured.seconds / tokens,
        "train_seconds_per_token": training / tokens if training else None,
        "peak_pss_bytes": measured.peak_pss_bytes,
        "peak_uss_bytes": measured.peak_uss_bytes,
        "cpu_seconds": measured.cpu_seconds,
        "most_processes": measured.most_processes,
        "samples": measured.samples,
        "sampling_cpu_seconds": measured.sampling_cpu_seconds,
        "load_before": measured.load_before,
    }


def ours_found(run_dir: Path) -> dict[str, Any]:
    """From our own run folder."""
    trials = json.loads((run_dir / "front.json").read_text())["trials"]
    lora = [trial for trial in trials if trial.get("kind", "lora") == "lora"]
    losses = [trial["eval_loss"] for trial in lora if trial["status"] == "completed"]
    return {
        "trials": len(lora),
        "completed": len(losses),
        "examples": sum(trial["examples_seen"] for trial in lora),
        "best_loss": min(losses, default=None),
        "own_best_loss": min(losses, default=None),
    }


def theirs_found(folder: Path, processes: list[list[dict[str, Any]]], full: int) -> dict[str, Any]:
    """From the trials' marks, and the best that the rival itself named; its loss is taken again later, our way."""
    seen = [examples for examples in examples_per_trial(processes) if examples]
    best = json.loads((folder / "best.json").read_text())
    return {
        "trials": len(seen),
        "completed": sum(examples >= full for examples in seen),
        "examples": sum(seen),
        "own_best_loss": best["eval_loss"],
        "best_adapter": best["adapter"],
        "best_loss": None,
    }
