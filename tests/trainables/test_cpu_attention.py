"""Short causal attention against PyTorch's own in double precision, and when it steps aside."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from tests.trainables.counted_step import CountedStep
from trainables import cpu_attention
from trainables.cpu_attention import (
    ShortCausalAttention,
    short_causal_attention,
)
from trainables.memory import probe_cpu_peak
from trainables.settings import LONGEST_SHORT_ATTENTION


def heads(length: int = 33, dtype: torch.dtype = torch.bfloat16, kv: int = 6) -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(2, count, length, 16).to(dtype).requires_grad_() for count in (6, kv, kv)]


def gradients(output: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    torch.manual_seed(1)
    return [output, *torch.autograd.grad(output, inputs, torch.randn(output.shape).to(output.dtype))]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 6e-3), (torch.float32, 1e-6)])
def test_output_and_gradients_are_those_of_causal_attention(dtype: torch.dtype, tolerance: float) -> None:
    inputs = heads(dtype=dtype)
    exact_inputs = [tensor.detach().double().requires_grad_() for tensor in inputs]
    exact = gradients(F.scaled_dot_product_attention(*exact_inputs, is_causal=True), exact_inputs)
    found = gradients(ShortCausalAttention.apply(*inputs, 0.25), inputs)
    for mine, theirs in zip(found, exact, strict=True):
        assert mine.dtype == dtype
        assert ((mine.double() - theirs).norm() / theirs.norm()).item() < tolerance


def test_autocast_lowers_the_precision_as_it_does_for_pytorchs() -> None:
    inputs = heads(dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = ShortCausalAttention.apply(*inputs, 0.25)
    assert output.dtype == torch.bfloat16
    assert [grad.dtype for grad in gradients(output, inputs)[1:]] == [torch.float32] * 3


def test_the_future_does_not_matter() -> None:
    query, key, value = heads()
    changed = value.detach().clone()
    changed[:, :, 20:] = 100
    before, after = (ShortCausalAttention.apply(query, key, v, 0.25) for v in (value, changed))
    assert torch.equal(before[:, :, :20], after[:, :, :20])
    assert not torch.equal(before[:, :, 20:], after[:, :, 20:])


class Module(nn.Module):
    num_key_value_groups = 3


@pytest.mark.parametrize("case", ["short", "long", "mask", "dropout", "cached keys"])
def test_it_takes_what_it_is_made_for(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    query, key, value = heads(LONGEST_SHORT_ATTENTION + 1 if case == "long" else 12, kv=2)
    mask = torch.zeros(2, 1, 12, 12, dtype=torch.bfloat16) if case == "mask" else None
    arguments: dict[str, Any] = {"dropout": 0.5 if case == "dropout" else 0.0, "scaling": 0.25}
    if case == "cached keys":
        query = query[:, :, -1:]
    calls = []
    original = ShortCausalAttention.apply
    monkeypatch.setattr(
        cpu_attention.ShortCausalAttention, "apply", lambda *a: calls.append(1) or original(*a)
    )
    torch.manual_seed(2)
    output, _ = short_causal_attention(Module(), query, key, value, mask, **arguments)
    torch.manual_seed(2)
    expected, _ = sdpa_attention_forward(Module(), query, key, value, mask, **arguments)
    assert bool(calls) == (case == "short")
    assert output.shape == expected.shape
    torch.testing.assert_close(output, expected, rtol=0.02, atol=0.02)


@pytest.fixture
def plain_sdpa() -> Iterator[None]:
    before = AttentionInterface()["sdpa"]
    AttentionInterface.register("sdpa", sdpa_attention_forward)
    yield
    AttentionInterface.register("sdpa", before)


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_a_models_step_gives_the_same_loss_in_the_memory_of_repeated_keys_and_values(
    plain_sdpa: None, kind: str
) -> None:
    results = []
    for short in (False, True):
        step = CountedStep(kind=kind, short_attention=short)
        losses = [step() for _ in range(3)]
        results.append((losses, probe_cpu_peak(step, step.held()).peak_bytes))
    (plain_losses, plain_bytes), (short_losses, short_bytes) = results
    assert short_losses == pytest.approx(plain_losses, rel=1e-3)
    assert short_losses != plain_losses  # it was used
    # Per layer: key and value of two heads more at 4 x 64 tokens, less a log-sum-exp of each head and token.
    element_bytes = 2 if kind == "lora" else 4
    repeated, log_sum_exp = 2 * 256 * 2 * 32 * element_bytes, 256 * 4 * 4
    assert short_bytes - plain_bytes == 4 * (repeated - log_sum_exp)
