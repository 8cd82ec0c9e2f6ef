"""What target sets mean, in models of many families; PEFT is asked whether it adapts just that."""

from typing import Any

import pytest
import torch
from peft import get_peft_model
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from search.errors import InputError
from tests.families import FAMILIES, FURTHER_FAMILIES, family_config
from trainables.adapters import lora_config
from trainables.meta_model import decoder_layers
from trainables.model_shape import linear_weights_of, shape_of
from trainables.modules import LLAMA_PATHS, TARGET_SETS, names_of, resolve_targets, roles_of, sets_of
from trainables.parameter_counts import trainable_parameters
from trainables.served import check_served
from trainables.settings import Architecture, ExecutionSettings, TrialConfig, TrialSpec

PHI3_PATHS = ("mlp.down_proj", "mlp.gate_up_proj", "self_attn.o_proj", "self_attn.qkv_proj")
ATTENTION = ("k_proj", "o_proj", "q_proj", "v_proj")
EXPERTS = ("experts.down_proj", "experts.gate_up_proj")


def weights(
    *parents: str, leaves: tuple[str, ...] = ("down_proj", "gate_proj", "up_proj")
) -> tuple[str, ...]:
    """Modules beside fused experts, which are adapted as the parameters that their weights are."""
    return tuple(sorted(f"{parent}.{leaf}.weight" for parent in parents for leaf in leaves))


# What `attention`, `mlp` and `experts` mean in each family; None for a set that it cannot have.
MEANING: dict[str, tuple[tuple[str, ...] | None, tuple[str, ...] | None, tuple[str, ...] | None]] = {
    **dict.fromkeys(
        (
            "llama", "qwen2", "qwen3", "mistral", "olmo2", "granite", "smollm3", "gemma2", "gemma3_text", "gemma4_text",
            "qwen3_5_text", "cohere2", "falcon_h1",
        ),
        (ATTENTION, ("down_proj", "gate_proj", "up_proj"), None),
    ),
    "phi3": (("o_proj", "qkv_proj"), ("down_proj", "gate_up_proj"), None),
    "glm4": (ATTENTION, ("down_proj", "gate_up_proj"), None),
    **dict.fromkeys(
        ("mixtral", "qwen3_moe", "gpt_oss", "granitemoe", "olmoe"),
        (ATTENTION, None, EXPERTS),
    ),
    **dict.fromkeys(("qwen3_next", "qwen2_moe", "qwen3_5_moe_text"), (ATTENTION, weights("shared_expert"), EXPERTS)),
    "ernie4_5_moe": (ATTENTION, weights("mlp", "shared_experts"), EXPERTS),
    "lfm2": (("k_proj", "q_proj", "self_attn.out_proj", "v_proj"), ("w1", "w2", "w3"), None),
    "gpt2": (("attn.c_proj", "c_attn"), ("c_fc", "mlp.c_proj"), None),
    "gpt_neox": (("dense", "query_key_value"), ("dense_4h_to_h", "dense_h_to_4h"), None),
    "starcoder2": (ATTENTION, ("c_fc", "c_proj"), None),
    "deepseek_v3": (("kv_a_proj_with_mqa", "kv_b_proj", "o_proj", "q_a_proj", "q_b_proj"),
                    weights("mlp", "shared_experts"), EXPERTS),
    "jamba": (ATTENTION, weights("feed_forward"), EXPERTS),
    "nemotron_h": (
        ATTENTION,
        weights("mixer", "shared_experts", leaves=("down_proj", "up_proj")),
        ("experts.down_proj", "experts.up_proj"),
    ),
    "minimax": (("k_proj", "o_proj", "out_proj", "q_proj", "qkv_proj", "v_proj"), None, EXPERTS),
    "llama4_text": (ATTENTION, weights("feed_forward", "shared_expert"), EXPERTS),
}  # fmt: skip


def configuration(family: str) -> Any:
    if family in FAMILIES:
        return family_config(family)
    return AutoConfig.for_model(family, **FURTHER_FAMILIES[family])


def adapter_spec(modules: tuple[str, ...]) -> TrialSpec:
    return TrialSpec(
        trial_id="t",
        config=TrialConfig(rank=2),
        execution=ExecutionSettings(),
        target_modules=modules,
        rungs=(1,),
        base_model_path="",
    )


def full_names(model: Any, paths: list[str], modules: tuple[str, ...]) -> set[str]:
    """The model's own names of the weights that the target modules stand for."""
    places = {id(module): name for name, module in model.named_modules()}
    named = dict(zip(paths, names_of(paths), strict=True))
    return {
        f"{places[id(layer)]}.{path}{'.weight' if named[path].endswith('.weight') else ''}"
        for layer in decoder_layers(model)
        for path, *_ in linear_weights_of(layer)
        if named.get(path) in modules
    }


def test_every_family_of_the_tests_is_described_here() -> None:
    assert MEANING.keys() == FAMILIES.keys() | FURTHER_FAMILIES.keys()


@pytest.mark.parametrize("family", MEANING)
def test_peft_adapts_what_the_sets_say_and_all_of_it_is_trained(family: str) -> None:
    """On the real model: which weights, how many parameters, and that a backward pass reaches every adapter."""
    config = configuration(family)
    config.use_cache = False
    arch = Architecture.from_model_config(config.to_dict())
    paths = [kind.path for kind in shape_of(arch).linears]
    sets = sets_of(paths)
    assert tuple(sets.get(name) for name in ("attention", "mlp", "experts")) == MEANING[family]
    assert set(sets["all-linear"]) == set(names_of(paths))
    check_served(arch, sets.values())
    for name, modules in sets.items():
        with torch.random.fork_rng(devices=[]):
            model = AutoModelForCausalLM.from_config(config)
        expected = full_names(model, paths, modules)
        adapted = get_peft_model(model, lora_config(adapter_spec(modules), model))
        tuner = adapted.base_model
        assert {*tuner.targeted_module_names, *tuner.targeted_parameter_names} == expected, name
        trained = {n: p for n, p in adapted.named_parameters() if p.requires_grad}
        assert sum(p.numel() for p in trained.values()) == trainable_parameters(arch, modules, 2, False), name
        if name == "all-linear":
            for parameter in trained.values():
                nn.init.normal_(parameter, std=0.1)
            ids = torch.arange(128).reshape(2, 64)
            adapted.train()(input_ids=ids, labels=ids).loss.backward()
            assert [n for n, p in trained.items() if p.grad is None] == []


@pytest.mark.parametrize("family", ["qwen3_next", "deepseek_v3", "ernie4_5_moe"])
def test_modules_whose_names_peft_takes_for_the_experts_are_adapted_as_parameters(family: str) -> None:
    arch = Architecture.from_model_config(configuration(family).to_dict())
    sets = sets_of([kind.path for kind in shape_of(arch).linears])
    assert all(name.endswith(".weight") for name in sets["mlp"])
    check_served(arch, sets.values())  # PEFT trains what the set says, and no expert in its place


def test_of_a_state_space_only_what_is_called_as_a_module_is_adapted() -> None:
    arch = Architecture.from_model_config(configuration("jamba").to_dict())
    mamba = [kind.path for kind in shape_of(arch).linears if kind.path.startswith("mamba")]
    assert mamba == ["mamba.in_proj"]


def test_what_only_chooses_is_no_linear_weight() -> None:
    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.router = nn.Linear(8, 4)
            self.indexer = nn.Module()
            self.indexer.wq = nn.Linear(8, 8)
            self.shared_expert_gate = nn.Linear(8, 1)
            self.up_proj = nn.Linear(8, 16)

    assert list(linear_weights_of(Layer())) == [("up_proj", 8, 16, 0)]


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (LLAMA_PATHS, ("down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj")),
        (("a.proj", "b.a.proj", "c.b.a.proj"), ("a.proj", "b.a.proj", "c.b.a.proj")),  # ends of one another
        (("x.a.proj", "y.a.proj", "b.proj"), ("x.a.proj", "y.a.proj", "b.proj")),
        (("mlp.experts.0.w1", "mlp.experts.1.w1"), ("experts.0.w1", "experts.1.w1")),
        (("mlp.proj", "mlp.proj"), ("proj", "proj")),  # of two shapes
    ],
)
def test_names_are_the_shortest_ends_that_tell_the_paths_apart(
    paths: tuple[str, ...], names: tuple[str, ...]
) -> None:
    assert names_of(paths) == names


@pytest.mark.parametrize(
    ("path", "role"),
    [
        ("self_attn.q_proj", "q"), ("attn.Wqkv", "qkv"), ("attention.self.value", "v"), ("attn.c_proj", "o"),
        ("self_attn.kv_a_proj_with_mqa", "kv"), ("self_attn.gate_proj", "other"), ("mlp.gate", "other"),
        ("temporal_block.k_proj", "k"), ("mixer.in_proj", "other"), ("mixer.down_proj", "mlp"), ("fc1", "mlp"),
        ("mlp.shared_experts.up_proj", "mlp"), ("mlp.experts.3.w1", "experts"), ("linear_attn.q_proj", "other"),
    ],
)  # fmt: skip
def test_the_role_of_a_weight(path: str, role: str) -> None:
    assert roles_of(path) == role


@pytest.mark.parametrize(
    ("name", "modules"),
    [
        ("attention-qv", ("q_proj", "v_proj")),
        ("attention-qkv", ("k_proj", "q_proj", "v_proj")),
        ("attention", ATTENTION),
        ("mlp", ("down_proj", "gate_proj", "up_proj")),
        ("all-linear", names_of(LLAMA_PATHS)),
    ],
)
def test_what_the_sets_mean_in_a_llama(name: str, modules: tuple[str, ...]) -> None:
    assert resolve_targets(name) == modules
    assert name in TARGET_SETS


@pytest.mark.parametrize(
    "name", ["v_proj+q_proj", "v_proj,q_proj", "q_proj, v_proj, q_proj", "attention-qv", "mine"]
)
def test_order_and_repetition_do_not_matter(name: str) -> None:
    assert resolve_targets(name, LLAMA_PATHS, {"mine": ["v_proj", "q_proj", "v_proj"]}) == (
        "q_proj",
        "v_proj",
    )


def test_sets_and_modules_can_be_added_up() -> None:
    assert resolve_targets("attention-qv+down_proj") == ("down_proj", "q_proj", "v_proj")


def test_an_end_of_names_stands_for_all_of_them() -> None:
    paths = ("conv.out_proj", "self_attn.out_proj", "self_attn.q_proj")
    assert resolve_targets("out_proj", paths) == ("conv.out_proj", "self_attn.out_proj")


def test_a_users_set_comes_before_a_built_in_one() -> None:
    assert resolve_targets("mlp", LLAMA_PATHS, {"mlp": ["down_proj"]}) == ("down_proj",)


@pytest.mark.parametrize(
    ("name", "available", "problem"),
    [
        (
            "bogus",
            LLAMA_PATHS,
            "is no set, and this model has no module bogus; .*attention-qv.*mine; modules: down_",
        ),
        ("q_proj+bogus", LLAMA_PATHS, "is no set, and this model has no module bogus; "),
        ("attention-qv", PHI3_PATHS, r"\(query and value\) is something that this model does not have"),
        ("experts", LLAMA_PATHS, "is something that this model does not have as modules of its own; sets"),
        ("mine", PHI3_PATHS, "needs q_proj, which this model lacks"),
        ("none", LLAMA_PATHS, "is empty"),
        ("", LLAMA_PATHS, "is blank"),
        ("+", LLAMA_PATHS, "is blank"),
    ],
)
def test_a_set_that_cannot_be_is_an_input_error(name: str, available: tuple[str, ...], problem: str) -> None:
    with pytest.raises(InputError, match=problem) as caught:
        resolve_targets(name, available, {"mine": ["q_proj"], "none": []})
    assert "\n" not in str(caught.value)
