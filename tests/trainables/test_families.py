"""One contract for every family: a trial trains what its target set says, exactly as plain transformers and PEFT do."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tests.families import FAMILIES, family_config, tiny_model
from tests.trainables.counted_step import process_group_of_one
from tests.trainables.plain_peft import loss_on, plain_losses, plain_model, with_adapter
from trainables import trace
from trainables.base_models import read_architecture
from trainables.chat import TokenizedExample
from trainables.cpu_attention import use_short_attention
from trainables.data import PreparedData, prepare_data
from trainables.lifetimes import StepSize, second_size
from trainables.model_shape import shape_of
from trainables.modules import are_parameters, sets_of
from trainables.parameter_counts import trainable_parameters
from trainables.settings import Architecture, DataSettings, ExecutionSettings, TrialConfig, TrialSpec
from trainables.timeline import MisalignedError
from trainables.trace import trace_peak
from trainables.training import Training, base_dtype
from trainables.worker import Worker

pytestmark = pytest.mark.timeout(300)
# All linear weights of every family, and each other set where it is most unlike a Llama's.
SETS = [(family, "all-linear") for family in FAMILIES] + [
    ("llama", "attention-qv"),
    ("phi3", "attention"),
    ("lfm2", "attention"),
    ("gpt_oss", "attention"),
    ("mixtral", "experts"),
    ("qwen3_next", "experts"),
    ("qwen3_next", "mlp"),
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


def counted_peak(family: str, spec: TrialSpec, tokens: int, supervised: int) -> int:
    """Live bytes of a real step of the training loop on random weights."""
    from transformers import AutoModelForCausalLM

    use_short_attention()
    config = family_config(family)
    base = AutoModelForCausalLM.from_config(config, dtype=base_dtype(spec)).eval()
    base.config.use_cache = False
    ids = np.random.default_rng(0).integers(3, config.vocab_size, tokens)
    example = TokenizedExample(ids, tokens - np.arange(tokens) <= supervised)
    data: Any = SimpleNamespace(train=[example] * spec.config.batch_size, pad_token_id=0)
    return Training(spec, base, data, torch.device("cpu")).probe.extra_step().peak_bytes


def architecture_of(family: str) -> Architecture:
    return Architecture.from_model_config(family_config(family).to_dict())


def forget() -> None:
    trace._peak.cache_clear()
    trace._traced.cache_clear()
    trace._first.clear()
    trace._is_arithmetic.clear()


@pytest.fixture
def no_kept_traces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORAFRONT_CACHE", str(tmp_path))
    forget()


@pytest.mark.usefixtures("no_kept_traces")
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("kind", "execution"),
    [("lora", {}), ("lora", {"gradient_checkpointing": True}), ("full", {})],
    ids=["lora", "checkpointing", "full"],
)
def test_predicted_memory_is_what_is_counted(family: str, kind: str, execution: dict[str, Any]) -> None:
    """To the byte: also where the prediction is worked out from traces of other sizes."""
    architecture = architecture_of(family)
    targets = sets_of([each.path for each in shape_of(architecture).linears])["all-linear"]
    trial = spec(Path("unused"), targets if kind == "lora" else (), dtype="bf16", **execution)
    trial = trial.model_copy(update={"kind": kind, "config": TrialConfig(rank=6, batch_size=3)})

    def predicted(rank: int, examples: int, tokens: int, positions: int) -> int:
        return trace_peak(
            architecture,
            TrialConfig(rank=rank, batch_size=examples),
            trial.execution,
            target_modules=trial.target_modules,
            seq_len=tokens,
            kind=kind,  # type: ignore[arg-type]
            supervised_positions=positions,
            device="cpu",
        ).peak_bytes

    with process_group_of_one():
        counted = counted_peak(family, trial, 28, 20)
    predicted(4, 2, 24, 30)
    assert predicted(6, 3, 28, 60) == counted
    assert all(trace._is_arithmetic.values()), "worked out, not traced"


def test_infinity_in_a_saved_configuration_is_a_number(tmp_path: Path) -> None:
    folder = tiny_model(
        tmp_path, "granitemoehybrid", layer_types=["mamba", "attention"] * 2, num_local_experts=4, mamba_n_heads=8,
        mamba_d_head=16, mamba_d_state=16, mamba_n_groups=1, shared_intermediate_size=48,
    )  # fmt: skip
    assert "__float__" in (folder / "config.json").read_text()
    names = [kind.path for kind in shape_of(read_architecture(folder)).linears]
    assert "mamba.in_proj" in names


@pytest.mark.usefixtures("no_kept_traces")
@pytest.mark.parametrize("family", ["qwen3", "mixtral", "gpt_oss", "qwen3_next"])
@pytest.mark.parametrize("plugin", ["ddp", "zero2"])
def test_what_a_gpu_needs_is_worked_out_exactly_too(family: str, plugin: str) -> None:
    architecture = architecture_of(family)
    targets = sets_of([each.path for each in shape_of(architecture).linears])["all-linear"]

    def predicted(rank: int, examples: int) -> Any:
        return trace_peak(
            architecture,
            TrialConfig(rank=rank, batch_size=examples),
            ExecutionSettings(plugin=plugin),  # type: ignore[arg-type]
            target_modules=targets,
            seq_len=24,
        )

    predicted(4, 2)
    worked_out = predicted(16, 5)
    assert all(trace._is_arithmetic.values())
    forget()
    assert predicted(16, 5) == worked_out


def test_the_second_size_is_told_apart_from_the_first_in_everything_that_varies() -> None:
    for first in (
        StepSize(2, 16, 4, 4),
        StepSize(1, 64, 40, 8),
        StepSize(3, 2, 1, 1),
        StepSize(8, 2048, 16384, 128),
    ):
        for longest in (None, first.tokens, 256 if first.tokens < 256 else None):
            try:
                second = second_size(first, longest, vary_tokens=True, vary_rank=True)
            except MisalignedError:
                assert first.tokens == longest == 2  # there is no shorter one
                continue
            assert second.tokens != first.tokens
            assert second.rank != first.rank
            assert (second.examples == first.examples) == (first.examples == 1)
            assert longest is None or second.tokens <= longest
