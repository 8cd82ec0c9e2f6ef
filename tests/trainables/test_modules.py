from pathlib import Path

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM

from search.errors import InputError
from tests.tiny import tiny_llama
from trainables.modules import LLAMA_MODULES, TARGET_SETS, linear_modules, resolve_targets

PHI3_MODULES = ("down_proj", "gate_up_proj", "o_proj", "qkv_proj")
SHAPE = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "pad_token_id": 0,
}


def test_a_llama_has_the_llama_modules(tmp_path: Path) -> None:
    assert linear_modules(tiny_llama(tmp_path, tie_word_embeddings=False)) == LLAMA_MODULES


@pytest.mark.parametrize("family", ["Qwen2", "Mistral", "Gemma", "Phi3", "GPTNeoX"])
def test_the_header_agrees_with_the_real_model_of_every_family(family: str, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_config(getattr(transformers, f"{family}Config")(**SHAPE))
    model.save_pretrained(tmp_path)
    linear = {
        name.split(".")[-1] for name, part in model.named_modules() if isinstance(part, torch.nn.Linear)
    }
    assert linear_modules(tmp_path) == tuple(sorted(linear - {"lm_head", "embed_out"}))


def test_all_shards_are_read(tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_llama(tmp_path / "whole"))
    model.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 2
    assert linear_modules(tmp_path / "shards") == LLAMA_MODULES


@pytest.mark.parametrize("name", TARGET_SETS)
def test_every_named_set_means_its_modules(name: str) -> None:
    assert set(resolve_targets(name)) == set(TARGET_SETS[name])


@pytest.mark.parametrize(
    "name", ["v_proj+q_proj", "v_proj,q_proj", "q_proj, v_proj, q_proj", "attention-qv", "mine"]
)
def test_order_and_repetition_do_not_matter(name: str) -> None:
    assert resolve_targets(name, LLAMA_MODULES, {"mine": ["v_proj", "q_proj", "v_proj"]}) == (
        "q_proj",
        "v_proj",
    )


def test_the_order_is_the_models() -> None:
    assert resolve_targets("q_proj+v_proj", ["v_proj", "o_proj", "q_proj"]) == ("v_proj", "q_proj")


def test_all_linear_is_whatever_the_model_has() -> None:
    assert resolve_targets("all-linear", PHI3_MODULES) == PHI3_MODULES


def test_a_users_set_comes_before_a_built_in_one() -> None:
    assert resolve_targets("mlp", LLAMA_MODULES, {"mlp": ["down_proj"]}) == ("down_proj",)


@pytest.mark.parametrize(
    ("name", "available", "problem"),
    [
        (
            "bogus",
            LLAMA_MODULES,
            "is no set, and this model has no module bogus; .*attention-qv.*mine; modules: down_",
        ),
        ("q_proj+bogus", LLAMA_MODULES, "is no set, and this model has no module bogus; "),
        (
            "attention-qv",
            PHI3_MODULES,
            "needs q_proj, v_proj, which this model lacks; sets that fit it: all-linear; ",
        ),
        ("mine", PHI3_MODULES, "needs q_proj, which this model lacks"),
        ("none", LLAMA_MODULES, "is empty"),
        ("", LLAMA_MODULES, "is blank"),
        ("+", LLAMA_MODULES, "is blank"),
    ],
)
def test_a_set_that_cannot_be_is_an_input_error(name: str, available: tuple[str, ...], problem: str) -> None:
    with pytest.raises(InputError, match=problem) as caught:
        resolve_targets(name, available, {"mine": ["q_proj"], "none": []})
    assert "\n" not in str(caught.value)
