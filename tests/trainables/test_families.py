"""One contract for every family: a trial trains what its target set says, exactly as plain transformers and PEFT do."""

from pathlib import Path
from typing import Any

import pytest

from tests.families import FAMILIES, tiny_model
from tests.trainables.plain_peft import loss_on, plain_losses, plain_model, with_adapter
from trainables.base_models import read_architecture
from trainables.data import PreparedData, prepare_data
from trainables.model_shape import shape_of
from trainables.modules import are_parameters, sets_of
from trainables.parameter_counts import trainable_parameters
from trainables.settings import DataSettings, ExecutionSettings, TrialConfig, TrialSpec
from trainables.worker import Worker

pytestmark = pytest.mark.timeout(300)
SETS = [
    (family, name)
    for family in FAMILIES
    for name in ("attention-qv", "attention", "mlp", "experts", "all-linear")
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {family: tiny_model(tmp_path_factory.mktemp(family), family) for family in FAMILIES}


@pytest.fixture(scope="module")
def data(folders: dict[str, Path]) -> PreparedData:
    """Sequences shorter and longer than the tiny models' sliding windows of 32 tokens."""
    folder = folders["llama"]
    rows = folder.parent / "rows.csv"
    lines = [f"what is {n}{' and so on' * (n % 9)}?,it is {n} of course\n" for n in range(60)]
    rows.write_text("prompt,response\n" + "".join(lines))
    settings = DataSettings(source=str(rows), seq_len=64, validation_examples=8)
    return prepare_data(settings, str(folder), train_examples=12, seed=0, cache_dir=folder.parent)


@pytest.fixture(scope="module")
def worker(data: PreparedData) -> Worker:
    return Worker(data, threads=1)


def spec(folder: Path, targets: tuple[str, ...], **execution: Any) -> TrialSpec:
    return TrialSpec(
        trial_id="t0001",
        config=TrialConfig(learning_rate=1e-2, batch_size=4, rank=4, alpha=8),
        execution=ExecutionSettings(**{"dtype": "fp32", **execution}),
        target_modules=targets,
        rungs=(4, 12),
        base_model_path=str(folder),
    )


@pytest.mark.parametrize(("family", "name"), SETS, ids=lambda value: value)
def test_a_trial_is_what_plain_peft_trains(
    family: str, name: str, folders: dict[str, Path], worker: Worker, data: PreparedData, tmp_path: Path
) -> None:
    architecture = read_architecture(folders[family])
    sets = sets_of([kind.path for kind in shape_of(architecture).linears])
    if name not in sets:
        pytest.skip(f"a {family} has no {name}")
    trial = spec(folders[family], sets[name])
    worker.begin(trial)
    results = [worker.train_rung() for _ in trial.rungs]
    worker.save(tmp_path)
    worker.end()
    experts = [target for target in sets[name] if are_parameters([target])]
    plain = with_adapter(plain_model(folders[family]), trial, experts)
    assert results[-1]["trainable_parameters"] == sum(
        p.numel() for p in plain.parameters() if p.requires_grad
    )
    assert results[-1]["trainable_parameters"] == trainable_parameters(architecture, sets[name], 4, False)
    expected = plain_losses(plain, trial, data)
    assert [result["eval_loss"] for result in results] == pytest.approx(expected, abs=2e-4)

    from peft import PeftModel

    loaded = PeftModel.from_pretrained(plain_model(folders[family]), str(tmp_path / "adapter"))
    assert loss_on(loaded, data) == pytest.approx(results[-1]["eval_loss"], abs=1e-4)
    assert abs(expected[0] - expected[1]) > 1e-2  # training changes what is compared
