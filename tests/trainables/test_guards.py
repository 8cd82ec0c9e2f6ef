"""Each guard broken on purpose, through the real loop."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch

from search.errors import TrialError
from tests.tiny import tiny_llama
from trainables.data import PreparedData, prepare_data
from trainables.settings import DataSettings, ExecutionSettings, TrialConfig, TrialSpec
from trainables.training import Training
from trainables.worker import Worker

CHECKPOINTING = ({}, {"gradient_checkpointing": True, "micro_batch_size": 2})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def worker(folder: Path) -> Iterator[Worker]:
    rows = folder.parent / "rows.csv"
    rows.write_text("prompt,response\n" + "".join(f"what is {n}?,it is {n} of course\n" for n in range(40)))
    data: PreparedData = prepare_data(
        DataSettings(source=str(rows), seq_len=48),
        str(folder),
        train_examples=8,
        seed=0,
        cache_dir=folder.parent,
    )
    worker = Worker(data, threads=1)
    yield worker
    worker.end()


def train(worker: Worker, folder: Path, **execution: Any) -> None:
    spec = TrialSpec(
        trial_id="t0001",
        config=TrialConfig(batch_size=4, rank=4),
        execution=ExecutionSettings(**execution),
        target_modules=("q_proj", "v_proj"),
        rungs=(8,),
        base_model_path=str(folder),
    )
    worker.begin(spec)
    worker.train_rung()


@pytest.mark.parametrize(
    "execution",
    [*CHECKPOINTING, {"gradient_checkpointing": True, "reentrant_checkpointing": True}],
    ids=str,
)
def test_a_sound_trial_passes(worker: Worker, folder: Path, execution: dict[str, Any]) -> None:
    train(worker, folder, **execution)


def test_reentrant_checkpoints_of_frozen_embeddings_leave_adapters_without_gradients(
    worker: Worker, folder: Path
) -> None:
    from transformers import PreTrainedModel

    worker.end()
    with (
        patch.object(PreTrainedModel, "enable_input_require_grads", lambda self: None),
        patch.object(PreTrainedModel, "disable_input_require_grads", lambda self: None),
        pytest.raises((TrialError, RuntimeError), match=r"no gradient|does not require grad"),
    ):
        train(worker, folder, gradient_checkpointing=True, reentrant_checkpointing=True)


def test_an_adapter_without_gradient_fails_the_trial(worker: Worker, folder: Path) -> None:
    from transformers.models.llama.modeling_llama import LlamaAttention

    original = LlamaAttention.forward

    def cut(self: Any, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        output, *rest = original(self, hidden_states, *args, **kwargs)
        return (output.detach() if self.layer_idx == 0 else output, *rest)

    with (
        patch.object(LlamaAttention, "forward", cut),
        pytest.raises(
            TrialError, match=r"4 trainable parameters got no gradient, the first is .*layers\.0\."
        ),
    ):
        train(worker, folder)


def test_a_trainable_parameter_outside_the_adapters_fails_the_trial(worker: Worker, folder: Path) -> None:
    import trainables.adapters
    import trainables.training as training

    original = trainables.adapters.lora_config

    def with_norm(spec: TrialSpec, base: torch.nn.Module) -> Any:
        config = original(spec, base)
        config.modules_to_save = ["norm"]
        return config

    with (
        patch.object(training, "lora_config", with_norm),
        pytest.raises(TrialError, match=r"parameters outside the adapters are trainable: .*norm"),
    ):
        train(worker, folder)


def test_a_base_of_another_dtype_fails_the_trial(worker: Worker, folder: Path) -> None:
    import trainables.worker as module

    original = module.load_base_model

    def in_fp32(*args: Any, **kwargs: Any) -> Any:
        return original(*args, **kwargs | {"dtype": "fp32"})

    worker.end()
    worker._base = worker._base_key = None
    with (
        patch.object(module, "load_base_model", in_fp32),
        pytest.raises(TrialError, match=r"should be torch\.bfloat16, but .* is torch\.float32"),
    ):
        train(worker, folder)


@pytest.mark.parametrize("asked", [True, False])
def test_checkpointing_other_than_asked_fails_the_trial(worker: Worker, folder: Path, asked: bool) -> None:
    from transformers import PreTrainedModel

    original = Training._with_adapter

    def contrary(self: Training, base: Any) -> Any:
        module: Any = original(self, base)
        if not asked:
            module.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        return module

    enable = PreTrainedModel.gradient_checkpointing_enable if not asked else lambda self, **kwargs: None
    with (
        patch.object(Training, "_with_adapter", contrary),
        patch.object(PreTrainedModel, "gradient_checkpointing_enable", enable),
        pytest.raises(
            TrialError, match=f"checkpointing should be {'on' if asked else 'off'}, but layer 0 ran"
        ),
    ):
        train(worker, folder, gradient_checkpointing=asked)
    worker._base = worker._base_key = None  # what the last case left switched on
