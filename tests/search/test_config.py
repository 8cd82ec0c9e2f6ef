"""The configuration of a sweep: precedence, round trip, and one clear line for everything that is wrong."""

from pathlib import Path
from typing import Any

import pytest

from search.config import DEFAULT_SIZE, SweepConfig, merge, parse_overrides, resolve_config
from search.errors import InputError
from search.sizes import load_profile
from search.yaml_io import dump_yaml

OTHER_MODEL = {"base_model": "/models/other"}


def write(tmp_path: Path, content: dict[str, Any], name: str = "sweep.yaml") -> Path:
    path = tmp_path / name
    path.write_text(dump_yaml(content), encoding="utf-8")
    return path


def test_nothing_given_is_the_default_sizes_profile() -> None:
    config, profile = resolve_config(None), load_profile(DEFAULT_SIZE)
    assert (config.size, config.name) == (DEFAULT_SIZE, DEFAULT_SIZE)
    assert config.base_model == profile.base_model
    assert config.base_model_sha256 == profile.base_model_sha256
    assert config.space == profile.space
    assert config.architecture == profile.architecture
    assert config.execution == profile.execution
    assert config.rungs == (16, 48, 144)


def test_later_sources_win(tmp_path: Path) -> None:
    file = write(tmp_path, {"trials": 2, "seed": 2, "concurrent": 2, "data": {"seq_len": 32}})
    flags = {"seed": 3, "concurrent": 3, "tracking_uri": None}
    config = resolve_config(None, config_file=file, flags=flags, overrides=["concurrent=4"])
    assert config.max_examples == load_profile(DEFAULT_SIZE).max_examples
    assert (config.trials, config.seed, config.concurrent) == (2, 3, 4)
    assert config.data.seq_len == 32
    assert config.data.source == load_profile(DEFAULT_SIZE).data.source


def test_the_size_argument_beats_the_override_and_the_override_the_file(tmp_path: Path) -> None:
    file = write(tmp_path, {"size": "llama2-7b"})
    assert resolve_config(None, config_file=file).size == "llama2-7b"
    assert resolve_config(None, config_file=file, overrides=["size=llama3-8b"]).size == "llama3-8b"
    assert resolve_config("llama2-13b", config_file=file, overrides=["size=llama3-8b"]).size == "llama2-13b"


def test_overrides_reach_into_sections_and_replace_dimensions_whole() -> None:
    space = ["space.rank=[4, 8]", "space.learning_rate={low: 1e-4, high: 1e-3}", "space.dropout=0.05"]
    other = ["data.seq_len=64", "execution.threads=1", "memory_budget=24GiB", "time_budget=1h30m"]
    config = resolve_config(None, overrides=space + other)
    assert config.space["rank"] == [4, 8]
    assert config.space["learning_rate"] == {"low": 1e-4, "high": 1e-3}
    assert config.space["dropout"] == 0.05
    assert "batch_size" in config.space
    assert (config.data.seq_len, config.execution.threads) == (64, 1)
    assert (config.memory_budget, config.time_budget) == (24 * 2**30, 5400.0)


def test_an_override_can_take_a_setting_away() -> None:
    flags = {"memory_budget": "24GiB", "time_budget": "30m"}
    config = resolve_config(None, flags=flags, overrides=["memory_budget=null", "time_budget="])
    assert (config.memory_budget, config.time_budget) == (None, None)


def test_alpha_takes_the_place_of_alpha_ratio_and_back(tmp_path: Path) -> None:
    config = resolve_config(None, overrides=["space.alpha=16"])
    assert config.space["alpha"] == 16
    assert "alpha_ratio" not in config.space
    file = write(tmp_path, config.to_yaml_dict())
    assert "alpha_ratio" not in resolve_config(None, config_file=file).space
    back = resolve_config(None, config_file=file, overrides=["space.alpha_ratio=2"])
    assert back.space["alpha_ratio"] == 2
    assert "alpha" not in back.space
    last = resolve_config(None, overrides=["space.alpha=16", "space.alpha_ratio=2"])
    assert "alpha" not in last.space


def test_both_ways_to_write_alpha_in_one_file_are_an_error(tmp_path: Path) -> None:
    file = write(tmp_path, {"space": {"alpha": 16, "alpha_ratio": 2}})
    with pytest.raises(InputError, match="give alpha or alpha_ratio"):
        resolve_config(None, config_file=file)


def test_another_base_model_has_another_checksum(tmp_path: Path) -> None:
    assert resolve_config(None, flags=OTHER_MODEL).base_model_sha256 is None
    same = load_profile(DEFAULT_SIZE)
    assert resolve_config(None, flags={"base_model": same.base_model}).base_model_sha256 is not None
    checksum = "0" * 64
    file = write(tmp_path, OTHER_MODEL | {"base_model_sha256": checksum})
    assert resolve_config(None, config_file=file).base_model_sha256 == checksum
    assert resolve_config(None, config_file=file, flags={"base_model": "x/y"}).base_model_sha256 is None


def test_a_resolved_file_of_one_size_is_not_run_under_the_name_of_another(tmp_path: Path) -> None:
    file = write(tmp_path, resolve_config("smollm2-135m").to_yaml_dict())
    with pytest.raises(
        InputError, match=r"sweep.yaml: describes a model of size smollm2-135m, not llama3-8b"
    ):
        resolve_config("llama3-8b", config_file=file)
    assert resolve_config("smollm2-135m", config_file=file).size == "smollm2-135m"


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["space.rank=8", "space.targets=[mine, mlp]", "target_sets.mine=[q_proj]"],
        ["space.alpha=[8, 16]", "memory_budget=1.5GiB", "time_budget=1h", "name='1e3'"],
        ["space.learning_rate={low: 1e-5, high: 1e-3}", "space.rank={low: 2, high: 9, step: 3}"],
        ["baseline.enabled=false", "execution.micro_batch_size=2", "data.source='a: b#c'", "concurrent=2"],
    ],
)
def test_a_written_configuration_resolves_to_itself(tmp_path: Path, overrides: list[str]) -> None:
    config = resolve_config(None, overrides=overrides)
    file = write(tmp_path, config.to_yaml_dict())
    again = resolve_config(None, config_file=file)
    assert again.to_yaml_dict() == config.to_yaml_dict()
    assert again.search_space.dimensions == config.search_space.dimensions
    preset = write(tmp_path, {"size": "ignored here", "sweep": config.to_yaml_dict()}, "preset.yaml")
    assert resolve_config(None, config_file=preset).to_yaml_dict() == config.to_yaml_dict()


SECRET_URIS = [
    "https://ann:s3cret@host:5000/x",
    "https://s3cret@host:5000/x",
    "postgresql://ann:s3cret@db/mlflow",
    "https://host/x?token=s3cret",
    "http://ann:s3cret@b@host",
]


@pytest.mark.parametrize("uri", SECRET_URIS)
def test_credentials_of_the_tracking_address_are_not_written_down(uri: str) -> None:
    config = resolve_config(None, flags={"tracking_uri": uri})
    assert config.tracking_uri == uri
    assert "s3cret" not in dump_yaml(config.to_yaml_dict())
    assert resolve_config(None).to_yaml_dict()["tracking_uri"] is None
    plain = resolve_config(None, flags={"tracking_uri": "http://host:5000"})
    assert plain.to_yaml_dict()["tracking_uri"] == "http://host:5000"


def test_rungs_rise_by_the_reduction_factor_up_to_the_full_resource() -> None:
    config = resolve_config(None, overrides=["max_examples=100", "reduction_factor=4", "rung_count=3"])
    assert config.rungs == (6, 25, 100)
    assert resolve_config(None, overrides=["rung_count=1"]).rungs == (144,)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trials=0", "trials: Input should be greater than or equal to 1, not 0"),
        ("trials=-3", "trials: .*, not -3"),
        ("trials=many", "trials: .*, not 'many'"),
        ("trials=2.5", "trials: .*, not 2.5"),
        ("max_examples=0", "max_examples: "),
        ("max_examples=8", "max_examples 8 is too few for 3 rungs with reduction factor 3: at least 9"),
        ("reduction_factor=1", "reduction_factor: Input should be greater than or equal to 2, not 1"),
        ("rung_count=0", "rung_count: "),
        ("seed=-1", "seed: "),
        ("concurrent=0", "concurrent: "),
        ("name=../up", "name: String should match pattern .*, not '../up'"),
        ("name=", "name: Input should be a valid string, not None"),
        ("memory_budget=0", "memory_budget: memory size 0 is not a positive number"),
        ("memory_budget=lots", "memory_budget: memory size 'lots' is not a positive number"),
        ("time_budget=soon", "time_budget: duration 'soon' is not a positive time"),
        ("time_budget=-5m", "time_budget: duration '-5m'"),
        ("colour=red", "unknown setting 'colour'; there are: name, size, base_model"),
        ("data.colour=red", "unknown setting 'data.colour'; there are: source, seq_len"),
        ("execution.colour=red", "unknown setting 'execution.colour'; there are: plugin"),
        ("execution.plugin=zero3", "execution.plugin: Input should be 'ddp', 'zero1', .*, not 'zero3'"),
        ("execution.dtype=int8", "execution.dtype: "),
        (
            "sampler=cma",
            "sampler: Input should be 'hypervolume', 'tpe', 'gp', 'nsga2', 'random' or 'grid', not 'cma'",
        ),
        ("scheduler=pbt", "scheduler: Input should be 'pareto-asha', 'asha' or 'fifo', not 'pbt'"),
        ("data=file.csv", "data: Input should be a valid dictionary .*, not 'file.csv'"),
        ("space=5", "space: Input should be a valid dictionary, not 5"),
        ("space=[alpha, alpha_ratio]", "space: Input should be a valid dictionary"),
        ("space={1: 2}", "space.1"),
        ("space.colour=1", "unknown search dimension 'colour'; there are: alpha"),
        ("space.rank=[]", "space.rank: an empty list leaves nothing to choose"),
        ("space.rank={low: 8, high: 4}", "space.rank: low 8 is above high 4"),
        ("recommended.colour=1", "unknown search dimension 'colour'"),
        ("recommended.rank=0", "recommended.rank: 0 is not allowed"),
        ("recommended.rank=[4, 8]", r"recommended.rank: is one value, not \[4, 8\]"),
        ("target_sets.mine=q_proj", "target_sets.mine: "),
        ("base_model_sha256=abc", "base_model_sha256: String should match pattern"),
        ("baseline.learning_rate=0", "baseline.learning_rate: Input should be greater than 0, not 0"),
        ("size=gpt-5", "unknown size 'gpt-5'; there are: smollm2-135m, qwen3-0.6b"),
        ("size=[a]", "unknown size"),
        ("size=../config", "unknown size '../config'"),
        ("trials", "--set 'trials': expected key=value"),
        ("=3", "--set '=3': expected key=value"),
        ("space.=3", "--set 'space.=3': expected key=value"),
        ("space.rank.low=3", "--set 'space.rank.low=3': expected key=value"),
        ("trials=[1", r"--set 'trials=\[1':1: not valid YAML"),
        ("trials=\x07", r"--set 'trials=\\x07': not valid YAML: unacceptable character"),
    ],
)
def test_a_bad_override_is_one_line_that_names_it(override: str, message: str) -> None:
    with pytest.raises(InputError, match="^" + message) as caught:
        resolve_config(None, overrides=[override])
    assert "\n" not in str(caught.value)


def test_several_mistakes_are_counted(tmp_path: Path) -> None:
    file = write(tmp_path, {"trials": 0, "seed": -1, "concurrent": 0})
    with pytest.raises(InputError, match=r"^trials: .*, not 0 \(and 2 more\)$"):
        resolve_config(None, config_file=file)


@pytest.mark.parametrize(
    "content", ["1: 2\n", "space: {1: 2}\n", "sweep: 5\n", "space: null\n", "data: []\n"]
)
def test_a_file_of_odd_shape_is_one_line(tmp_path: Path, content: str) -> None:
    path = tmp_path / "odd.yaml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(InputError) as caught:
        resolve_config(None, config_file=path)
    assert "\n" not in str(caught.value)


def test_merge_goes_one_level_down_and_changes_neither_side() -> None:
    base = {"a": 1, "space": {"rank": {"low": 2, "high": 8}, "alpha": 1}}
    over = {"b": 2, "space": {"rank": {"low": 4}}}
    assert merge(base, over) == {"a": 1, "b": 2, "space": {"rank": {"low": 4}, "alpha": 1}}
    merge(base, {"space": {"alpha_ratio": 2}})
    assert base == {"a": 1, "space": {"rank": {"low": 2, "high": 8}, "alpha": 1}}
    assert over == {"b": 2, "space": {"rank": {"low": 4}}}
    assert merge({"data": "text"}, {"data": {"seq_len": 8}}) == {"data": {"seq_len": 8}}


def test_overrides_read_values_as_yaml_and_the_last_one_stands() -> None:
    texts = ["space.rank=[4, 8]", "trials=2", "trials=3", "tracking_uri=http://h:1/a=b", "x=1e-3"]
    assert parse_overrides(texts) == {
        "space": {"rank": [4, 8]},
        "trials": 3,
        "tracking_uri": "http://h:1/a=b",
        "x": 0.001,
    }


def test_a_configuration_is_frozen_and_survives_json() -> None:
    config = resolve_config(None)
    with pytest.raises(ValueError, match="frozen"):
        config.trials = 3  # type: ignore[misc]
    assert SweepConfig.model_validate_json(config.model_dump_json()) == config


def test_the_baselines_settings_make_a_trial_config() -> None:
    config = resolve_config(None, overrides=["baseline.learning_rate=2e-4", "baseline.batch_size=2"])
    baseline = config.baseline_config()
    assert (baseline.learning_rate, baseline.batch_size) == (2e-4, 2)


@pytest.mark.parametrize("init", ["pissa", "[default, pissa]"])
def test_pissa_cannot_change_weights_in_4_bits(init: str) -> None:
    overrides = [f"space.init={init}"]
    resolve_config("llama3-8b", overrides=overrides)
    with pytest.raises(InputError, match=r"init=pissa .* quantize=true"):
        resolve_config("llama3-8b", overrides=[*overrides, "execution.quantize=true"])


def test_dora_cannot_scale_weights_in_8_bits() -> None:
    overrides = ["space.use_dora=true", "execution.quantize=true"]
    resolve_config("llama3-8b", overrides=overrides)
    with pytest.raises(InputError, match=r"use_dora=true on a base in 8 bits.*quantize_type=nf4"):
        resolve_config("llama3-8b", overrides=[*overrides, "execution.quantize_type=int8"])
