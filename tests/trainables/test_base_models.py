import hashlib
import json
import shutil
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from safetensors.torch import load_file, save_file

from search.errors import BrokenEnvironmentError, InputError
from tests.families import tiny_model
from tests.tiny import change_config, tiny_llama
from tests.trainables.tiny_gguf import write_gguf
from trainables import model_cache
from trainables.base_models import cache_root, load_base_model, read_architecture, resolve_base_model
from trainables.gguf import convert_gguf
from trainables.model_folder import check_model_folder

MEMBER = "tinymodel/tiny.gguf"
SOURCE = f"pypi:tinymodel==1.0/{MEMBER}"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def gguf_file(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(model, tmp_path_factory.mktemp("gguf") / "tiny.gguf")


@pytest.fixture
def folder(model: Path, tmp_path: Path) -> Path:
    """A copy of the model for a test to damage."""
    return Path(shutil.copytree(model, tmp_path / "damaged"))


@pytest.fixture
def wheels(gguf_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one real wheel, and pip told to look nowhere else."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    info = "tinymodel-1.0.dist-info"
    with zipfile.ZipFile(folder / "tinymodel-1.0-py3-none-any.whl", "w") as wheel:
        wheel.write(gguf_file, MEMBER)
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tinymodel\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def conversions(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Converts in this process, which has transformers loaded already, and lists the conversions."""
    done: list[Path] = []

    def convert(file: Path, folder: Path) -> None:
        done.append(file)
        convert_gguf(file, folder)

    monkeypatch.setattr(model_cache, "convert_gguf_apart", convert)
    return done


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def left_overs(cache: Path) -> list[Path]:
    return list((cache / "models").glob(".*"))


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORAFRONT_CACHE", "/a")
    monkeypatch.setenv("XDG_CACHE_HOME", "/b")
    monkeypatch.setenv("HOME", "/c")
    assert cache_root() == Path("/a")
    monkeypatch.delenv("LORAFRONT_CACHE")
    assert cache_root() == Path("/b/lorafront")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_root() == Path("/c/.cache/lorafront")


# --- sources ---


def test_a_local_folder_is_used_as_it_is(model: Path, tmp_path: Path) -> None:
    assert resolve_base_model(str(model), cache=tmp_path / "cache") == model
    assert not (tmp_path / "cache").exists()


@pytest.mark.slow
def test_a_wheels_file_is_fetched_and_converted_once_and_then_found_at_once(
    wheels: Path, tmp_path: Path
) -> None:
    said: list[str] = []
    cache = tmp_path / "cache"
    found = resolve_base_model(SOURCE, cache=cache, say=said.append)
    check_model_folder(found)
    assert said == ["fetching tinymodel==1.0 with pip", "converting tiny.gguf to safetensors (once)"]
    assert not left_overs(cache)
    shutil.rmtree(wheels)
    program = (
        "import sys, time; from pathlib import Path; from trainables.base_models import resolve_base_model\n"
        "start = time.perf_counter()\n"
        "found = resolve_base_model(sys.argv[1], cache=Path(sys.argv[2]), say=print)\n"
        "print(found, time.perf_counter() - start < 0.05, 'torch' in sys.modules)"
    )
    again = subprocess.run(
        [sys.executable, "-c", program, SOURCE, cache], capture_output=True, text=True, check=True
    )
    assert again.stdout.split() == [str(found), "True", "False"]


def test_the_checksum_is_the_files_and_a_wrong_one_leaves_nothing(
    wheels: Path, gguf_file: Path, tmp_path: Path, conversions: list[Path]
) -> None:
    cache = tmp_path / "cache"
    with pytest.raises(InputError, match=f"sha256 is {sha256(gguf_file)}, expected {'0' * 64}"):
        resolve_base_model(SOURCE, sha256="0" * 64, cache=cache)
    assert not conversions
    assert not list((cache / "models").iterdir())
    resolve_base_model(SOURCE, sha256=sha256(gguf_file).upper(), cache=cache)
    with pytest.raises(InputError, match="wrong checksum"):
        resolve_base_model(SOURCE, sha256="0" * 64, cache=cache)


def test_a_file_that_the_wheel_lacks_lists_the_ones_it_has(wheels: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"has no tinymodel/other.gguf; its .gguf files: {MEMBER}"):
        resolve_base_model("pypi:tinymodel==1.0/tinymodel/other.gguf", cache=tmp_path / "cache")


def test_pips_own_reason_is_shown(wheels: Path, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"pip could not fetch tinymodel==2.0: No matching distribution found"
    ):
        resolve_base_model("pypi:tinymodel==2.0/tiny.gguf", cache=tmp_path / "cache")


@pytest.mark.parametrize(
    "source",
    [
        "pypi:tinymodel",
        "pypi:tinymodel==1.0",
        "pypi:tinymodel==1.0/",
        "pypi:--pre==1/x",
        "pypi:a==1/../x",
        "pypi:a==1//x",
    ],
)
def test_a_malformed_wheel_source_shows_the_form(source: str) -> None:
    with pytest.raises(InputError, match="pypi:NAME==VERSION/FILE"):
        resolve_base_model(source)


def test_a_gguf_file_is_converted_again_only_when_it_changed(
    gguf_file: Path, tmp_path: Path, conversions: list[Path]
) -> None:
    cache, file = tmp_path / "cache", tmp_path / "mine.gguf"
    shutil.copy(gguf_file, file)
    first = resolve_base_model(str(file), cache=cache)
    assert resolve_base_model(str(file), cache=cache) == first
    shutil.copy(file, tmp_path / "copy.gguf")
    assert resolve_base_model(str(tmp_path / "copy.gguf"), cache=cache) == first
    assert conversions == [file]
    file.write_bytes(file.read_bytes() + b"\0")
    assert resolve_base_model(str(file), cache=cache) != first


def test_a_damaged_cache_entry_is_made_again(
    gguf_file: Path, tmp_path: Path, conversions: list[Path]
) -> None:
    cache = tmp_path / "cache"
    found = resolve_base_model(str(gguf_file), cache=cache)
    weights = found / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert resolve_base_model(str(gguf_file), cache=cache) == found
    check_model_folder(found)
    assert len(conversions) == 2


def test_what_a_killed_writer_left_behind_neither_counts_nor_stays(
    gguf_file: Path, tmp_path: Path, conversions: list[Path]
) -> None:
    half = tmp_path / "cache" / "models" / ".unfinished-killed" / "converted"
    half.mkdir(parents=True)
    check_model_folder(resolve_base_model(str(gguf_file), cache=tmp_path / "cache"))
    assert not left_overs(tmp_path / "cache")


def test_two_at_once_convert_once(gguf_file: Path, tmp_path: Path, conversions: list[Path]) -> None:
    with ThreadPoolExecutor(2) as pool:
        jobs = [pool.submit(resolve_base_model, str(gguf_file), cache=tmp_path / "cache") for _ in range(2)]
        first, second = (job.result() for job in jobs)
    assert first == second
    assert len(conversions) == 1


def test_a_failed_conversion_leaves_nothing(tmp_path: Path, conversions: list[Path]) -> None:
    file = tmp_path / "bad.gguf"
    file.write_bytes(b"GGUF and nothing more")
    with pytest.raises(InputError, match="corrupt or truncated GGUF"):
        resolve_base_model(str(file), cache=tmp_path / "cache")
    assert not list((tmp_path / "cache" / "models").iterdir())


def test_a_cache_that_cannot_be_written_is_an_environment_error(gguf_file: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file, not a folder")
    with pytest.raises(BrokenEnvironmentError, match=r"cannot fill the model cache .*set LORAFRONT_CACHE"):
        resolve_base_model(str(gguf_file), cache=tmp_path / "cache")


def test_an_unreachable_hub_is_one_clear_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        InputError, match=r"'some-owner/some-model' is no local file or folder.*could not be fetched"
    ):
        resolve_base_model("some-owner/some-model")


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("", "is empty"),
        ("./nowhere", "'./nowhere' does not exist"),
        ("/no/such/folder", "does not exist"),
        ("nowhere.gguf", "'nowhere.gguf' does not exist"),
        (__file__, "neither a folder nor a .gguf file"),
    ],
)
def test_a_source_that_is_not_there(source: str, problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        resolve_base_model(source)


def test_a_folder_has_no_single_checksum(model: Path) -> None:
    with pytest.raises(InputError, match=r"sha256 can be checked for a .gguf file"):
        resolve_base_model(str(model), sha256="0" * 64)


# --- architecture ---


def test_the_architecture_is_read_from_the_config(model: Path) -> None:
    architecture = read_architecture(model)
    assert (architecture.hidden_size, architecture.num_layers, architecture.vocab_size) == (32, 2, 512)
    assert (architecture.num_heads, architecture.num_kv_heads, architecture.head_dim) == (4, 2, 8)


def test_a_llama_must_have_its_numbers_and_another_family_may_name_them_otherwise(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "hidden_size": 32}))
    with pytest.raises(InputError, match=r"model_type 'llama'\): config.json has no num_attention_heads"):
        read_architecture(folder)
    numbers = {"n_embd": 32, "n_head": 4, "n_layer": 3, "vocab_size": 9}
    (folder / "config.json").write_text(json.dumps({"model_type": "gpt2", **numbers}))
    architecture = read_architecture(folder / "config.json")
    assert (architecture.hidden_size, architecture.num_heads, architecture.num_layers) == (32, 4, 3)


@pytest.mark.parametrize("changes", [{"hidden_size": "wide"}, {"num_attention_heads": 0, "head_dim": None}])
def test_an_impossible_shape_is_one_line(folder: Path, changes: dict[str, object]) -> None:
    change_config(folder, **changes)
    with pytest.raises(InputError, match="impossible shape") as caught:
        read_architecture(folder)
    assert "\n" not in str(caught.value)


# --- loading ---


@pytest.mark.parametrize(
    ("dtype", "expected"), [("bf16", torch.bfloat16), ("fp16", torch.float16), ("fp32", torch.float32)]
)
def test_a_model_loads_in_the_dtype_asked_for(model: Path, dtype: str, expected: torch.dtype) -> None:
    loaded = load_base_model(model, dtype=dtype, device="cpu")  # type: ignore[arg-type]
    assert {parameter.dtype for parameter in loaded.parameters()} == {expected}
    assert not loaded.training
    assert loaded.config.use_cache is False
    assert loaded.config._attn_implementation == "sdpa"
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight
    saved = load_file(model / "model.safetensors")
    assert all(torch.equal(loaded.get_parameter(name), weight.to(expected)) for name, weight in saved.items())


def test_training_the_loaded_weights_leaves_the_file_as_it_is(model: Path) -> None:
    before = sha256(model / "model.safetensors")
    with torch.no_grad():
        for parameter in load_base_model(model, dtype="bf16", device="cpu").parameters():
            parameter.add_(1)
    assert sha256(model / "model.safetensors") == before


def test_missing_weights_are_not_filled_in_at_random(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"lacks 1 weights, first model.layers.1.mlp.up_proj.weight"):
        load_base_model(folder, dtype="bf16", device="cpu")


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"hidden_size": 64}, "cannot be loaded: "),
        ({"model_type": "my_llama"}, "of model_type 'my_llama', which the installed transformers"),
        (
            {
                "model_type": "my_llama",
                "auto_map": {"AutoModelForCausalLM": "mine.Model", "AutoConfig": "mine.Config"},
            },
            "needs its own code",
        ),
    ],
)
def test_a_model_that_transformers_cannot_build_is_one_line(
    folder: Path, changes: dict[str, object], problem: str
) -> None:
    change_config(folder, **changes)
    (folder / "mine.py").write_text("raise SystemExit('ran code of the model folder')\n")
    with pytest.raises(InputError, match=problem) as caught:
        load_base_model(folder, dtype="bf16", device="cpu")
    assert "\n" not in str(caught.value)


def test_own_code_beside_a_family_that_transformers_knows_is_not_run(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "phi3", "phi3")
    change_config(folder, auto_map={"AutoModelForCausalLM": "mine.Model", "AutoConfig": "mine.Config"})
    (folder / "mine.py").write_text("raise SystemExit('ran code of the model folder')\n")
    assert type(load_base_model(folder, dtype="bf16", device="cpu")).__name__ == "Phi3ForCausalLM"


def test_mxfp4_weights_become_16_bit_ones_of_the_same_values(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "gpt_oss", "gpt_oss", dtype="bfloat16", intermediate_size=64)
    expected = as_mxfp4(folder)
    said: list[str] = []
    assert resolve_base_model(str(folder), say=said.append) == folder
    assert said == [f"{folder} is stored in 4 bits (mxfp4) and held in memory in 16 bits"]
    loaded = load_base_model(folder, dtype="bf16", device="cpu")
    assert len(expected) == 8
    assert all(torch.equal(loaded.get_parameter(name), weight) for name, weight in expected.items())
    assert getattr(loaded.config, "quantization_config", None) is None  # PEFT would take it for quantised


def as_mxfp4(folder: Path) -> dict[str, torch.Tensor]:
    """Store a tiny gpt-oss's experts as OpenAI does (blocks of 32 E2M1 numbers with a power of two); their values."""
    e2m1 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])
    values = torch.cat([e2m1, -e2m1])
    weights, expected = load_file(folder / "model.safetensors"), {}
    random = torch.Generator().manual_seed(0)
    for name in [name for name in weights if name.endswith(("experts.gate_up_proj", "experts.down_proj"))]:
        experts, inputs, outputs = weights.pop(name).shape
        shape = (experts, outputs, inputs // 32)
        codes = torch.randint(0, 16, (*shape, 32), generator=random, dtype=torch.uint8)
        scales = torch.randint(118, 124, shape, generator=random, dtype=torch.uint8)
        numbers = values[codes.long()] * 2.0 ** (scales.float() - 127)[..., None]
        expected[name] = numbers.reshape(experts, outputs, inputs).transpose(1, 2).contiguous().bfloat16()
        weights[f"{name}_blocks"] = codes[..., 0::2] | (codes[..., 1::2] << 4)
        weights[f"{name}_scales"] = scales
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    others = ["model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"]
    change_config(folder, quantization_config={"quant_method": "mxfp4", "modules_to_not_convert": others})
    return expected


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_model_loads_on_the_device_asked_for(model: Path) -> None:
    loaded = load_base_model(model, dtype="bf16", device="cuda:0")
    assert {parameter.device.type for parameter in loaded.parameters()} == {"cuda"}
