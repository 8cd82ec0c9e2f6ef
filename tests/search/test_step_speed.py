"""The model of how fast a step is with another execution."""

from dataclasses import replace
from typing import Any

import pytest

from search.step_speed import CALL_SECONDS, OFFLOADED_SECONDS, StepSpeed
from trainables.modules import LLAMA_PATHS, names_of
from trainables.parameter_counts import trainable_parameters
from trainables.settings import Architecture, ExecutionSettings, TrialConfig

LLAMA_MODULES = names_of(LLAMA_PATHS)

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
        step("cpu", own_seconds=1000.0, tokens=n).relative(ExecutionSettings(micro_batch_size=1))
        for n in (64.0, 2048.0)
    )
    assert short < 0.8 < 0.95 < long


def test_a_pass_on_cuda_never_takes_less_than_calling_its_kernels() -> None:
    speed = step(own_seconds=0.2, tokens=64.0)
    assert speed.seconds(ExecutionSettings(micro_batch_size=1)) >= 16 * 32 * CALL_SECONDS["cuda"]
    compute_bound = step(own_seconds=20.0, tokens=64.0).relative(ExecutionSettings(micro_batch_size=8))
    assert compute_bound == pytest.approx((16 * 64 + 200) / (16 * 64 + 2 * 200))
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


MEDIUM = Architecture(
    hidden_size=576, intermediate_size=1536, num_layers=8, num_heads=9, num_kv_heads=3, head_dim=64,
    vocab_size=8192, tie_word_embeddings=True,
)  # fmt: skip
TINY = Architecture(
    hidden_size=128, intermediate_size=256, num_layers=4, num_heads=4, num_kv_heads=2, head_dim=32,
    vocab_size=512, tie_word_embeddings=True,
)  # fmt: skip


@pytest.mark.parametrize(
    ("arch", "tokens", "own_seconds", "measured"),
    [
        (MEDIUM, 96, 0.898, {(8, True): 0.71, (4, False): 0.95, (2, False): 0.82, (1, False): 0.66, (1, True): 0.49}),
        (TINY, 64, 0.052, {(8, True): 0.59, (4, False): 0.71, (2, False): 0.46, (1, False): 0.28, (1, True): 0.15}),
    ],
)  # fmt: skip
def test_agrees_with_the_measurements_that_it_was_fitted_to(
    arch: Architecture, tokens: int, own_seconds: float, measured: dict[tuple[int, bool], float]
) -> None:
    config = TrialConfig(rank=16, batch_size=8)
    speed = StepSpeed(arch, LLAMA_MODULES, config, ExecutionSettings(), "cpu", tokens, 0.4, own_seconds)
    for (micro_batch, checkpointing), relative in measured.items():
        execution = ExecutionSettings(micro_batch_size=micro_batch, gradient_checkpointing=checkpointing)
        assert speed.relative(execution) == pytest.approx(relative, abs=0.1)
