import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from search.errors import InputError
from tests.tiny import change_config, tiny_llama
from trainables.model_folder import check_model_folder, safetensors_header


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("model"))


@pytest.fixture
def folder(model: Path, tmp_path: Path) -> Path:
    """A copy of the model for a test to damage."""
    return Path(shutil.copytree(model, tmp_path / "damaged"))


def test_a_whole_model_passes(model: Path) -> None:
    check_model_folder(model)


def test_the_header_gives_every_tensors_shape(model: Path) -> None:
    header = safetensors_header(model / "model.safetensors")
    assert header["model.embed_tokens.weight"]["shape"] == [512, 32]
    assert header["model.norm.weight"]["dtype"] == "BF16"
    assert len(header) == 2 + 2 * 9  # embedding, last norm; per layer seven linear modules and two norms


def drop(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def put(name: str, content: bytes) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / name).write_bytes(content)

    return write


def configure(**changes: object) -> Callable[[Path], None]:
    return lambda folder: change_config(folder, **changes)


def pickle_only(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def lose_a_shard(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    shards = {"a.weight": "model-00001-of-00002.safetensors", "b.weight": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))


def cut_short(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def adapter_only(folder: Path) -> None:
    (folder / "config.json").rename(folder / "adapter_config.json")


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (drop("config.json"), "has no config.json"),
        (adapter_only, "it is a LoRA adapter: give the model it was trained on"),
        (put("config.json", b"{"), "cannot be read as JSON"),
        (put("config.json", b"[]"), "holds list where a JSON object belongs"),
        (configure(architectures=["BertModel"]), "not a causal language model but BertModel"),
        (configure(architectures=None), "not a causal language model but model_type 'llama'"),
        (drop("tokenizer.json"), "has no tokenizer"),
        (drop("model.safetensors"), "has no weights"),
        (pickle_only, r"pickled weights only \(pytorch_model.bin\)"),
        (lose_a_shard, "lacks 1 of 2 shards, first model-00002-of-00002.safetensors"),
        (put("model.safetensors.index.json", b"{}"), "has no weight_map"),
        (cut_short, r"is corrupt: \d+ bytes, its header announces \d+"),
        (put("model.safetensors", b"abc"), "is corrupt: its 3 bytes hold no whole safetensors header"),
        (put("model.safetensors", b"\xff" * 64), "is corrupt: its 64 bytes hold no whole"),
        (put("model.safetensors", (4).to_bytes(8, "little") + b"{bad"), "header cannot be read"),
        (put("model.safetensors", (9).to_bytes(8, "little") + b'{"a": {}}'), "header cannot be read"),
    ],
)  # fmt: skip
def test_a_folder_with_something_amiss_is_refused(
    folder: Path, damage: Callable[[Path], None], problem: str
) -> None:
    damage(folder)
    with pytest.raises(InputError, match=problem) as caught:
        check_model_folder(folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)
