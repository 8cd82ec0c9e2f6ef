"""The fused pass is PEFT's: same outputs and gradients, and PEFT's own pass wherever it does not apply."""

import copy
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn

from trainables.fused_adapters import FusedLinear, fuse_adapters


def adapted(
    in_features: int = 24, out_features: int = 40, dtype: torch.dtype = torch.bfloat16, **config: Any
) -> PeftModel:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(in_features, out_features, bias=False).to(dtype))
    model.config = {"tie_word_embeddings": False}
    adapted = get_peft_model(model, LoraConfig(r=4, lora_alpha=6, target_modules=["0"], **config))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:  # PEFT starts it at zero, where A would get no gradient
            nn.init.normal_(parameter, std=0.3)
    return adapted


def passes(model: nn.Module, needs_input_grad: bool = True) -> tuple[Tensor, ...]:
    torch.manual_seed(1)
    x = torch.randn(3, 7, 24).bfloat16().requires_grad_(needs_input_grad)
    output = model(x)
    output.backward(torch.randn(output.shape).to(output.dtype))
    gradients = [p.grad for p in model.parameters() if p.requires_grad]
    return output.detach(), *([x.grad] if needs_input_grad else []), *gradients


@pytest.mark.parametrize("needs_input_grad", [True, False])
@pytest.mark.parametrize("use_rslora", [True, False])
def test_outputs_and_gradients_are_those_of_peft(use_rslora: bool, needs_input_grad: bool) -> None:
    plain = adapted(use_rslora=use_rslora)
    fused = copy.deepcopy(plain)
    fuse_adapters(fused)
    assert any(type(module) is FusedLinear for module in fused.modules())
    for mine, theirs in zip(passes(fused, needs_input_grad), passes(plain, needs_input_grad), strict=True):
        assert mine.dtype == theirs.dtype
        # fp32 sums in another order, then rounded to bf16: at most a unit in the last place here and there.
        torch.testing.assert_close(mine, theirs, rtol=2**-7, atol=1e-5)
        assert (mine != theirs).float().mean() < (0.02 if mine.dtype == torch.bfloat16 else 1)


def test_no_kept_tensor_is_changed_in_place() -> None:
    fused = adapted()
    fuse_adapters(fused)
    x = torch.randn(5, 24).bfloat16()
    before = x.clone()
    first = fused(x)
    assert torch.equal(first, fused(x))
    assert torch.equal(x, before)


@pytest.mark.parametrize(
    "config",
    [{"lora_dropout": 0.1}, {"use_dora": True}, {"dtype": torch.float32}],
    ids=lambda c: next(iter(c)),
)
def test_what_is_not_plain_stays_with_peft(config: dict[str, Any]) -> None:
    model = adapted(**config)
    fuse_adapters(model)
    assert not any(type(module) is FusedLinear for module in model.modules())


def test_disabled_merged_and_removed_adapters_are_left_to_peft() -> None:
    model = adapted()
    fuse_adapters(model)
    x = torch.randn(5, 24).bfloat16()
    with_adapter = model(x)
    with model.disable_adapter():
        without = model(x)
    assert not torch.equal(with_adapter, without)
    model.merge_adapter()
    torch.testing.assert_close(model(x), with_adapter, rtol=0.05, atol=0.05)
    model.unmerge_adapter()
    assert not any(isinstance(module, FusedLinear) for module in model.unload().modules())
