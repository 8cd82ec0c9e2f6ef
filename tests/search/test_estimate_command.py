"""What `lorafront estimate` takes: sizes, model folders, the hub's cache, and every setting."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from search.errors import InputError
from search.estimate_command import _fitting, estimate_size
from search.estimate_model import find_model
from search.estimate_result import EstimateResult
from search.sizes import load_profile, size_names
from tests.tiny import tiny_llama
from tests.trainables.test_modules import configuration
from tests.trainables.tiny_gguf import write_gguf
from trainables.gguf import convert_gguf
from trainables.model_shape import shape_of
from trainables.modules import TARGET_SETS, sets_of
from trainables.peak import predicted_peak
from trainables.settings import PLAIN_FAMILIES, TrialConfig

LLAMA_1B = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 2048, "intermediate_size": 8192,
    "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64,
    "vocab_size": 128256, "tie_word_embeddings": True,
}  # fmt: skip


def predicted(size: str = "llama3.2-1b", *overrides: str, **options: Any) -> EstimateResult:
    changes = {
        name: options.pop(name) for name in ("rank", "alpha", "targets", "batch_size") if name in options
    }
    return estimate_size(size, changes, overrides=overrides, predict=predicted_peak, **options)


def write_config(folder: Path, **changes: Any) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(LLAMA_1B | changes))
    return folder


PLAIN = [name for name in size_names() if load_profile(name).architecture.model_type in PLAIN_FAMILIES]


@pytest.mark.parametrize("size", [*PLAIN, "qwen3-0.6b", "phi4-mini", "qwen3-30b-a3b"])
def test_every_size_has_an_estimate_of_its_recommended_config(size: str) -> None:
    result, profile = predicted(size), load_profile(size)
    assert (result.model, result.defaults_of, result.devices) == (size, size, 1)
    assert result.parameters == result.full.trainable_parameters == profile.parameters
    assert result.seq_len == profile.data.seq_len
    assert result.execution == profile.execution
    assert result.config.rank == profile.recommended["rank"]
    assert result.ratio < 1


def test_the_grid_names_the_sets_in_a_fixed_order_and_own_modules_last() -> None:
    fit = predicted(targets="q_proj+down_proj", device_memory="h100").fit
    assert fit is not None
    assert list(dict.fromkeys(cell.targets for cell in fit.grid)) == [
        *(name for name in TARGET_SETS if name != "experts"),
        "q_proj+down_proj",
    ]


def test_settings_are_the_profiles_then_flags_then_set() -> None:
    result = predicted(
        "llama3.2-1b", "rank=4", "use_dora=true", "dropout=0.1", "execution.plugin=hybrid",
        "execution.micro_batch_size=1", "execution.optimizer=adamw-8bit", "alpha_ratio=3",
        rank=64, alpha=1.0, batch_size=2,
    )  # fmt: skip
    assert (result.config.rank, result.config.alpha, result.config.batch_size) == (4, 12.0, 2)
    assert (result.config.use_dora, result.config.dropout) == (True, 0.1)
    execution = result.execution
    assert (execution.plugin, execution.micro_batch_size, execution.optimizer) == ("hybrid", 1, "adamw-8bit")
    assert execution.dtype == load_profile("llama3.2-1b").execution.dtype
    assert result.micro_batch == 1


def test_checkpointing_and_quantisation_can_be_switched_off() -> None:
    plain = predicted("llama3-70b")
    assert (plain.execution.quantize, plain.execution.gradient_checkpointing) == (True, True)
    off = predicted("llama3-70b", gradient_checkpointing=False, quantize=False)
    assert (off.execution.quantize, off.execution.gradient_checkpointing) == (False, False)
    again = predicted("llama3-70b", "execution.quantize=true", quantize=False)
    assert again.execution.quantize
    assert off.lora.categories["base_weights"] > 3 * plain.lora.categories["base_weights"]
    assert off.lora.categories["activations"] > 3 * plain.lora.categories["activations"]


def test_a_model_folder_needs_no_weights_and_takes_the_nearest_sizes_settings(tmp_path: Path) -> None:
    folder = write_config(tmp_path / "mine")
    result, size = predicted(str(folder)), predicted("llama3.2-1b")
    assert (result.model, result.defaults_of) == (str(folder), "llama3.2-1b")
    assert result.lora == size.lora
    assert result.full == size.full


def test_a_hub_model_is_read_from_the_cache_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--someone--llama"
    write_config(repository / "snapshots" / "abc", num_hidden_layers=2)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    assert find_model("someone/llama").architecture.num_layers == 2
    with pytest.raises(
        InputError, match=r"'someone/else' is no folder, and as a hub id .* not in the hub's cache"
    ):
        find_model("someone/else")


def test_a_bare_config_is_enough_and_may_lack_the_models_class(tmp_path: Path) -> None:
    file = write_config(tmp_path / "mine", architectures=None) / "config.json"
    file = file.rename(tmp_path / "other-name.json")
    assert predicted(str(file)).lora == predicted("llama3.2-1b").lora


def test_a_gguf_file_is_taken_as_in_a_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORAFRONT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("trainables.model_cache.convert_gguf_apart", convert_gguf)
    file = write_gguf(tiny_llama(tmp_path / "model"), tmp_path / "tiny.gguf")
    assert find_model(str(file)).architecture.hidden_size == 32


@pytest.mark.parametrize("family", ["qwen3", "phi3", "mixtral", "gpt2"])
def test_every_family_has_an_architecture_and_target_sets(family: str, tmp_path: Path) -> None:
    config = configuration(family).to_dict() | {"model_type": family}
    (tmp_path / "config.json").write_text(json.dumps(config, default=str))
    model = find_model(str(tmp_path))
    assert (model.architecture.model_type, model.profile.size) == (family, size_names()[0])
    paths = [kind.path for kind in shape_of(model.architecture).linears]
    assert {"attention", "all-linear"} <= sets_of(paths).keys()


def test_a_model_stored_in_mxfp4_is_counted_in_16_bits_and_said(tmp_path: Path) -> None:
    config = configuration("gpt_oss").to_dict() | {"quantization_config": {"quant_method": "mxfp4"}}
    (tmp_path / "config.json").write_text(json.dumps(config, default=str))
    assert find_model(str(tmp_path)).notes == (
        f"{tmp_path} is stored in 4 bits (mxfp4): counted as held in memory, in 16 bits",
    )


def test_fused_experts_take_no_dropout(tmp_path: Path) -> None:
    config = TrialConfig(dropout=0.1, targets="experts")
    paths = ["self_attn.q_proj", "mlp.experts.down_proj"]
    assert _fitting(config, {}, paths).dropout == 0.0
    assert _fitting(config.model_copy(update={"targets": "q_proj"}), {}, paths).dropout == 0.1
    with pytest.raises(
        InputError, match=r"dropout=0.1: PEFT adapts fused experts only with dropout=0.0, and"
    ):
        _fitting(config, {"dropout": 0.1}, paths)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"hidden_size": 0}, "impossible shape"),
        ({"model_type": "new9"}, "of model_type 'new9', which the installed transformers"),
        ({"model_type": "own", "auto_map": {"AutoConfig": "own.Own"}}, "needs its own code"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "not a causal language model but LlamaForSeq"),
        ({"quantization_config": {"quant_method": "awq"}}, r"is quantised \(awq\) already: give the 16-bit model"),
        ({"vision_config": {"depth": 1}, "text_config": {"model_type": "llama"}}, "is a vision-language model"),
        ({"model_type": "bart", "architectures": None}, "cannot be served: no list of 16 decoder"),
        ({"model_type": "bert", "architectures": None}, "it is an encoder, in which every token sees those after it"),
        ({"model_type": "qwen3", "layer_types": ["odd"] * 16, "architectures": None}, "transformers cannot build it"),
    ],
)  # fmt: skip
def test_a_model_that_cannot_be_trained_is_refused_in_one_line(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(InputError, match=words) as caught:
        predicted(str(write_config(tmp_path / "model", **changes)))
    assert "\n" not in str(caught.value)


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"no config\.json"):
        predicted(str(tmp_path / "empty"))
    (tmp_path / "model.gguf").touch()
    with pytest.raises(InputError, match="is not a GGUF file"):
        predicted(str(tmp_path / "model.gguf"))
    (tmp_path / "model.txt").touch()
    with pytest.raises(InputError, match=r"is a file, but neither a config.json nor a .gguf file: give one"):
        predicted(str(tmp_path / "model.txt"))


@pytest.mark.parametrize("source", ["llama9", "", "a b/c", "no/such/folder", "./x"])
def test_an_unknown_model_lists_the_sizes(source: str) -> None:
    with pytest.raises(
        InputError, match=f"unknown size '{source}'; there are: smollm2-135m, .*llama3.1-70b; nor is"
    ):
        predicted(source)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["speed=1"], r"unknown setting 'speed'; there are: .*rank, .*execution\.plugin"),
        (["data.seq_len=8"], "unknown setting 'data'"),
        (["execution=3"], r"--set execution=3: name a setting of it"),
        (["execution.speed=1"], "execution: unknown setting 'speed'; there are: plugin"),
        (["execution.plugin=fsdp"], "execution: plugin: .*'hybrid', not 'fsdp'"),
        (["execution.devices_per_trial=7"], "7 devices cannot share a batch of 16 examples"),
        (
            ["execution.optimizer=adamw-8bit", "execution.plugin=zero2-offload"],
            "'adamw-8bit' steps on the GPU",
        ),
        (["rank=10000"], "rank: .*4096, not 10000"),
        (["batch_size=0"], "batch_size: .*, not 0"),
        (["use_dora=perhaps"], "use_dora: "),
        (["init=pissa", "use_dora=true"], "cannot be combined"),
    ],
)
def test_what_is_unknown_or_impossible_is_refused(overrides: list[str], words: str) -> None:
    with pytest.raises(InputError, match=words):
        predicted("llama3.2-1b", *overrides, batch_size=16)


@pytest.mark.parametrize("fraction", [0.0, -1.0, 1.01, float("nan")])
def test_an_impossible_supervised_fraction_is_refused(fraction: float) -> None:
    with pytest.raises(InputError, match=r"supervised fraction .* is not above 0 and at most 1"):
        predicted(supervised_fraction=fraction)


@pytest.mark.parametrize("number", ["24", "24.5", "80000"])
def test_a_device_memory_without_unit_is_asked_about(number: str) -> None:
    with pytest.raises(
        InputError, match=rf"device memory '{number}' has no unit: for {number} GiB give {number}GiB"
    ):
        predicted(device_memory=number)


def test_an_empty_device_memory_is_no_device() -> None:
    with pytest.raises(InputError, match="device memory ''"):
        predicted(device_memory="")


def test_the_command_prints_nothing_but_json(tmp_path: Path) -> None:
    tiny = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    tiny |= {"num_key_value_heads": 2, "head_dim": 8, "vocab_size": 512}
    folder = write_config(tmp_path / "tiny", **tiny)
    command = [
        sys.executable, "-c", "from search.cli import main; main()", "estimate", str(folder), "--format", "json",
        "--set", "execution.plugin=zero2", "--device-memory", "rtx4090", "--supervised-fraction", "0.5",
    ]  # fmt: skip
    environment = {**os.environ, "LORAFRONT_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    result = EstimateResult.model_validate_json(done.stdout)
    assert (result.lora.source, result.full.source, result.supervised_fraction) == ("trace", "trace", 0.5)
    assert done.stderr == ""
