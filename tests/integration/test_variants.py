"""An exported execution variant, trained for real: the same loss, in the memory that was promised."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from analysis.execution import Choice
from analysis.export import export_preset
from analysis.presets import choose
from analysis.records import RunPaths, TrialRecord
from analysis.results import load_run
from search.config import SweepConfig, resolve_config
from search.journal import Journal
from search.plan import Machine, SweepPlan
from search.recorder import new_record
from search.units import GIB
from search.variants import with_variants
from search.yaml_io import dump_yaml
from tests.integration.conftest import lorafront
from tests.tiny import tiny_llama
from trainables.base_models import read_architecture
from trainables.data import prepare_data
from trainables.modules import LLAMA_PATHS, names_of
from trainables.settings import TrialConfig
from trainables.worker import Worker

LLAMA_MODULES = names_of(LLAMA_PATHS)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

CONFIG = TrialConfig(rank=8, batch_size=4, learning_rate=3e-3, targets="all-linear")


def trial_of(plan: SweepPlan) -> TrialConfig:
    """The one trial of a preset's plan, in which everything is fixed."""
    space = plan.config.search_space
    return CONFIG if any(each.size() > 1 for each in space.dimensions.values()) else space.config_at({})


@dataclass
class Workshop:
    """A run folder with one trial in it, and what it takes to train its presets."""

    plan: SweepPlan
    paths: RunPaths
    worker: Worker

    def train(self, plan: SweepPlan) -> dict[str, Any]:
        """The last rung's result of the plan's trial, executed as the plan says."""
        spec = plan.spec("t0001", trial_of(plan))
        self.worker.begin(spec)
        result: dict[str, Any] = [self.worker.train_rung() for _ in spec.rungs][-1]
        return result


def make_plan(folder: Path) -> SweepPlan:
    """Rows of one length, and that is the sequence length: what is measured is then what is predicted."""
    tiny_llama(folder / "model", hidden=64, layers=4)
    rows = [f"what is {n}?,it is {n} and nothing else\n" for n in range(100, 160)]
    (folder / "rows.csv").write_text("prompt,response\n" + "".join(rows))

    def configuration(seq_len: int) -> SweepConfig:
        flags = {"base_model": str(folder / "model"), "max_examples": 36, "name": "variants"}
        flags |= {"data": {"source": str(folder / "rows.csv"), "seq_len": seq_len}}
        return resolve_config(None, flags=flags)

    def data(config: SweepConfig) -> Any:
        return prepare_data(
            config.data, str(folder / "model"), train_examples=36, seed=0, cache_dir=folder / "cache"
        )

    longest = data(configuration(128)).counts["longest_tokens"]
    config = configuration(longest)
    return SweepPlan(
        config=config,
        architecture=read_architecture(folder / "model"),
        base_model_path=folder / "model",
        data=data(config),
        targets={name: LLAMA_MODULES for name in config.search_space.target_sets()},
        machine=Machine("cpu", "1 CPU core", 1, 1, 8 * GIB),
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    folder = tmp_path_factory.mktemp("variants")
    plan, paths = make_plan(folder), RunPaths(folder / "run")
    shop = Workshop(plan, paths, Worker(plan.data, threads=1))
    result = shop.train(plan)
    shop.worker.save(paths.tune / "t0001")
    spec = plan.spec("t0001", CONFIG)
    record = new_record(spec, plan.predict_memory(spec)).model_dump()
    record |= {name: value for name, value in result.items() if name in TrialRecord.model_fields}
    record |= {"status": "completed", "checkpoint": "tune/t0001"}
    paths.sweep_yaml.write_text(dump_yaml(plan.config.to_yaml_dict()))
    journal = Journal(paths, name="variants", size="tiny")
    journal.complete = lambda trial: with_variants(plan, trial)
    journal.trial("ended", TrialRecord.model_validate(record))
    journal.close()
    return shop


def exported(trained: Workshop, limit_bytes: int, to: Path) -> tuple[Choice, SweepPlan]:
    """The choice for a memory size, and the plan that its preset's `sweep` section makes."""
    run = load_run(trained.paths.root)
    choice = choose(run.front, f"under:{limit_bytes}B")
    folder = export_preset(run, choice.trial, to, choice.variant)
    config = resolve_config(None, config_file=folder / "preset.yaml")
    return choice, replace(trained.plan, config=config)


def test_every_variant_trains_to_the_same_loss_in_the_memory_predicted(
    trained: Workshop, tmp_path: Path
) -> None:
    (trial,) = load_run(trained.paths.root).front.trials
    variants = trial.execution_variants or []
    assert len(variants) >= 4
    assert trial.eval_loss is not None
    for number, variant in enumerate(variants):
        choice, plan = exported(trained, variant.predicted_memory_bytes, tmp_path / str(number))
        assert choice.variant == variant
        result = trained.train(plan)
        assert trial_of(plan) == CONFIG
        used = plan.execution
        assert used.gradient_checkpointing == variant.gradient_checkpointing
        assert used.micro_batch(CONFIG.batch_size) == variant.micro_batch_size
        assert result["eval_loss"] == pytest.approx(trial.eval_loss, abs=3e-4)
        assert result["peak_memory_bytes"] == pytest.approx(variant.predicted_memory_bytes, rel=0.03)


def test_the_command_executes_otherwise_what_does_not_fit_as_it_was_measured(
    finished: Path, tmp_path: Path
) -> None:
    trials = json.loads((finished / "front.json").read_text())["trials"]
    assert all(bool(t["execution_variants"]) == (t["status"] == "completed") for t in trials)
    best = min((t for t in trials if t["on_front"]), key=lambda trial: trial["eval_loss"])
    limit = best["peak_memory_bytes"] - 1
    done = lorafront(
        "export", finished, "--pick", f"under:{limit}B", "--to", tmp_path / "preset", cwd=finished.parent
    )
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first.startswith(best["trial_id"])
    assert second.startswith("executed otherwise, since it needs")
    preset = yaml.safe_load((tmp_path / "preset" / "preset.yaml").read_text())
    assert preset["execution"]["is_own"] is False
    assert preset["execution"]["predicted_memory_bytes"] <= limit
    assert preset["execution_variants"] == best["execution_variants"]
