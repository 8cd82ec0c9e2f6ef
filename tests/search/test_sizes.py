"""Every size's profile: it resolves, its numbers agree, and its hardware can hold its space."""

import re
from importlib import resources

import pytest

import search.sizes
from search.config import SweepConfig, resolve_config
from search.device_memory import required_bytes
from search.errors import InputError
from search.sizes import load_profile, profile_text, size_names
from search.space import Choices
from search.units import GIB
from search.yaml_io import parse_yaml
from trainables.memory_model import Kind, predict_peak
from trainables.modules import TARGET_SETS
from trainables.settings import Architecture, TrialConfig

# The parameters of the published checkpoints, as the model hub states them for the safetensors files.
PARAMETERS = {
    "smollm2-135m": 134_515_008,
    "llama3.2-1b": 1_235_814_400,
    "llama3.2-3b": 3_212_749_824,
    "llama2-7b": 6_738_415_616,
    "llama3-8b": 8_030_261_248,
    "llama2-13b": 13_015_864_320,
    "llama3-70b": 70_553_706_496,
}
SIZES = list(PARAMETERS)
GPU_SIZES = SIZES[1:]

every_size = pytest.mark.parametrize("size", SIZES)


def test_sizes_are_listed_smallest_first() -> None:
    assert size_names() == SIZES


@pytest.mark.parametrize("size", ["llama4-1t", "", "..", "../config", "llama3-8b.yaml", "llama3 8b", "/etc"])
def test_an_unknown_size_lists_those_there_are(size: str) -> None:
    expected = f"unknown size {size!r}; there are: {', '.join(SIZES)}"
    for read in (load_profile, profile_text, resolve_config):
        if size or read is not resolve_config:  # no size means the default one
            with pytest.raises(InputError) as caught:
                read(size)
            assert str(caught.value) == expected


@every_size
def test_a_profile_is_named_as_its_file_and_says_what_it_needs(size: str) -> None:
    profile = load_profile(size)
    assert profile.size == size
    assert profile.title
    assert re.search(r"\d+ GiB", profile.hardware.partition(";")[0])
    assert ("gated" in profile.hardware) == profile.base_model.startswith("meta-llama/")


def test_a_broken_profile_is_an_input_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search.sizes, "profile_text", lambda size: "size: 3\n")
    with pytest.raises(
        InputError, match=r"^sizes/llama3-8b\.yaml: \('size',\): Input should be a valid string$"
    ):
        load_profile("llama3-8b")


def count_from_architecture(arch: Architecture) -> int:
    """Parameters of a Llama without biases, spelt out apart from the program's own count."""
    attention = arch.hidden_size * arch.head_dim * (2 * arch.num_heads + 2 * arch.num_kv_heads)
    mlp = 3 * arch.hidden_size * arch.intermediate_size
    norms = 2 * arch.hidden_size
    embedding = arch.vocab_size * arch.hidden_size
    head = 0 if arch.tie_word_embeddings else embedding
    return embedding + arch.num_layers * (attention + mlp + norms) + arch.hidden_size + head


@every_size
def test_parameters_are_counted_from_the_architecture(size: str) -> None:
    profile = load_profile(size)
    assert profile.parameters == count_from_architecture(profile.architecture) == PARAMETERS[size]
    assert profile.architecture.num_heads % profile.architecture.num_kv_heads == 0


@every_size
def test_a_profile_resolves_to_a_sweep(size: str) -> None:
    profile, config = load_profile(size), resolve_config(size)
    assert isinstance(config, SweepConfig)
    assert config.size == size
    assert (config.trials, config.max_examples) == (profile.trials, profile.max_examples)
    assert config.execution == profile.execution
    assert config.data == profile.data


@every_size
def test_rungs_ascend_and_end_on_whole_batches(size: str) -> None:
    config = resolve_config(size)
    assert list(config.rungs) == sorted(set(config.rungs))
    assert config.rungs[-1] == config.max_examples
    batch_sizes = config.search_space.dimensions["batch_size"]
    assert isinstance(batch_sizes, Choices)
    assert all(rung % int(batch) == 0 for rung in config.rungs for batch in batch_sizes.values)


@every_size
def test_the_recommended_config_lies_in_the_space(size: str) -> None:
    config = resolve_config(size)
    space = config.search_space
    assert set(config.recommended) == set(space.dimensions)
    assert all(space.dimensions[name].contains(value) for name, value in config.recommended.items())
    assert space.restrict(config.recommended) == config.recommended
    recommended = space.to_config(config.recommended)
    assert recommended.alpha == recommended.rank * config.recommended["alpha_ratio"]


@every_size
def test_the_recommended_learning_rate_follows_the_scaling_rule(size: str) -> None:
    """5e-4 (2000 / hidden)^0.781, tinker-cookbook's rule; full fine-tuning takes about a tenth of it."""
    config = resolve_config(size)
    rule = 5e-4 * (2000 / config.architecture.hidden_size) ** 0.781
    assert config.recommended["learning_rate"] == pytest.approx(rule, rel=0.05)
    assert config.baseline.learning_rate == pytest.approx(rule / 10, rel=0.3)


@every_size
def test_target_sets_are_known(size: str) -> None:
    assert set(resolve_config(size).search_space.target_sets()) == set(TARGET_SETS)


@every_size
def test_the_built_in_data_are_enough(size: str) -> None:
    """About 5,900 pairs (the design's count), of which validation and test get at most a fifth each."""
    config = resolve_config(size)
    held_out = config.data.validation_examples + config.data.test_examples
    assert config.data.source == "builtin:python-docstrings"
    assert max(config.data.validation_examples, config.data.test_examples) <= 5900 // 5
    assert config.max_examples + held_out <= 5900


def device_gib(text: str) -> int:
    match = re.search(r"(\d+) GiB", text)
    assert match
    return int(match[1])


def needed_gib(size: str, kind: Kind) -> float:
    """GiB that the worst point of a size's space (or its baseline) needs, by the memory model."""
    config = resolve_config(size)
    ranks, batch_sizes = (config.search_space.dimensions[name] for name in ("rank", "batch_size"))
    assert isinstance(ranks, Choices)
    assert isinstance(batch_sizes, Choices)
    worst = TrialConfig(rank=max(map(int, ranks.values)), batch_size=max(map(int, batch_sizes.values)))
    memory = predict_peak(
        config.architecture,
        worst if kind == "lora" else config.baseline_config(),
        config.execution,
        target_modules=TARGET_SETS["all-linear"],
        seq_len=config.data.seq_len,
        kind=kind,
    )
    return required_bytes(memory.peak_bytes) / GIB


@pytest.mark.parametrize("size", GPU_SIZES)
def test_every_config_of_the_space_fits_the_device_that_the_profile_names(size: str) -> None:
    machine = load_profile(size).hardware.partition(";")[0]
    assert needed_gib(size, "lora") <= device_gib(machine)


@pytest.mark.parametrize("size", GPU_SIZES)
def test_the_baseline_is_on_only_where_one_device_can_hold_it(size: str) -> None:
    config, hardware = resolve_config(size), load_profile(size).hardware
    if config.baseline.enabled:
        assert "baseline" in hardware
        assert needed_gib(size, "full") <= device_gib(hardware.partition(";")[2])
    else:
        assert needed_gib(size, "full") > 80
        assert "Off: " in profile_text(size)


@pytest.mark.parametrize("size", GPU_SIZES)
def test_evaluation_takes_no_more_examples_at_a_time_than_training(size: str) -> None:
    execution = load_profile(size).execution
    assert execution.micro_batch_size == execution.eval_batch_size


RESOURCE_KEYS = ["parameters", "architecture", "trials", "max_examples", "reduction_factor"]
TRIAL_KEYS = ["seq_len", "validation_examples", "plugin", "dtype", "learning_rate", "rank", "alpha_ratio"]


@every_size
@pytest.mark.parametrize("key", RESOURCE_KEYS + TRIAL_KEYS)
def test_the_reason_for_a_number_stands_beside_or_above_it(size: str, key: str) -> None:
    lines = profile_text(size).splitlines()
    places = [index for index, line in enumerate(lines) if line.strip().startswith(f"{key}:")]
    assert places
    assert all("#" in lines[index] or "#" in lines[index - 1] for index in places)


def test_no_profile_is_left_out_of_the_package() -> None:
    files = {file.name for file in resources.files(search.sizes).iterdir() if file.name.endswith(".yaml")}
    assert files == {f"{size}.yaml" for size in SIZES}
    for size in SIZES:
        assert parse_yaml(profile_text(size), size)["size"] == size
