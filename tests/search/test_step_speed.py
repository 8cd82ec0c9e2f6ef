"""The model of how fast a step is with another execution."""

from dataclasses import replace
from typing import Any

import pytest

from search.step_speed import LAUNCH_SECONDS, OFFLOADED_SECONDS, StepSpeed
from trainables.modules import LLAMA_MODULES
from trainables.parameter_counts import trainable_parameters
from trainables.settings import Architecture, ExecutionSettings, TrialConfig

LLAMA3_8B = Architecture(
    hidden_size=4096, intermediate_size=14336, num_layers=32, num_heads=32, num_kv_heads=8, head_dim=128,
    vocab_size=128256, tie_word_embeddings=False,
)  # fmt: skip


def step(device: str = "cuda", own_seconds: float = 16.0, tokens: float = 2048.0, **own: Any) -> StepSpeed:
    return StepSpeed(
        arch=LLAMA3_8B,
        target_modules=LLAMA_MODULES,
        config=TrialConfig(rank=16, batch_size=16),
        own=ExecutionSettings(**own),
        device=device,
        tokens_per_example=tokens,
        supervised_fraction=0.5,
        own_seconds=own_seconds,
    )


@pytest.mark.parametrize("own", [{}, {"micro_batch_size": 2, "gradient_checkpointing": True}])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_own_execution_has_speed_one(device: str, own: dict[str, Any]) -> None:
    speed = step(device, **own)
    assert speed.relative(speed.own) == pytest.approx(1.0)
    assert speed.seconds(speed.own) == pytest.approx(16.0)


def test_checkpointing_costs_a_forward_pass_of_the_layers() -> None:
    """By hand: 2 x 6.98e9 operations a token forward, as much backward, and 2/3 of the speed if that were all."""
    relative = step().relative(ExecutionSettings(gradient_checkpointing=True))
    assert relative == pytest.approx(2 / 3, abs=0.02)
    assert step(gradient_checkpointing=True).relative(ExecutionSettings()) == pytest.approx(1 / relative)


def test_smaller_micro_batches_are_slower_and_matter_less_with_long_sequences() -> None:
    for tokens in (64.0, 2048.0):
        speeds = [
            step("cpu", tokens=tokens).relative(ExecutionSettings(micro_batch_size=n)) for n in (16, 8, 2, 1)
        ]
        assert speeds == sorted(speeds, reverse=True)
        assert len(set(speeds)) == 4
    short, long = (
        step("cpu", tokens=n).relative(ExecutionSettings(micro_batch_size=1)) for n in (64.0, 2048.0)
    )
    assert short < 0.8 < 0.95 < long


def test_a_pass_on_cuda_never_takes_less_than_calling_its_kernels() -> None:
    speed = step(own_seconds=0.2, tokens=64.0)
    assert speed.seconds(ExecutionSettings(micro_batch_size=1)) >= 16 * 32 * LAUNCH_SECONDS
    unbound = step("cpu", own_seconds=0.2, tokens=64.0)
    assert unbound.seconds(ExecutionSettings(micro_batch_size=1)) < 16 * 32 * LAUNCH_SECONDS
    faster_than_thought = step(own_seconds=0.01, tokens=64.0)
    assert faster_than_thought.relative(faster_than_thought.own) == pytest.approx(1.0)


def test_offloading_adds_a_step_on_the_host() -> None:
    adapters = trainable_parameters(LLAMA3_8B, LLAMA_MODULES, 16, False)
    speed = step(plugin="zero2")
    offloaded = ExecutionSettings(plugin="zero2-offload")
    assert speed.seconds(offloaded) - 16.0 == pytest.approx(OFFLOADED_SECONDS * adapters)
    back = replace(speed, own=offloaded)
    assert back.seconds(offloaded) == pytest.approx(16.0)
    assert back.relative(speed.own) > 1


def test_full_time_is_never_explained_by_offloading_alone() -> None:
    tiny = replace(step(), own=ExecutionSettings(plugin="zero2-offload"), own_seconds=1e-6)
    assert 0 < tiny.relative(ExecutionSettings(plugin="zero2")) <= 10.001
