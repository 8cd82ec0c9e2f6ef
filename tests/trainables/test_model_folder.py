import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from search.errors import InputError
from tests.tiny import change_config, tiny_llama
from trainables.known_models import causal_classes, known_families
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


@pytest.mark.parametrize(
    "changes",
    [
        {"model_type": "phi3", "architectures": ["Phi3ForCausalLM"], "auto_map": {"AutoConfig": "own.Phi3"}},
        {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]},
        {"model_type": "gpt_oss", "quantization_config": {"quant_method": "mxfp4"}},
    ],
)  # fmt: skip
def test_own_code_that_is_not_needed_other_heads_and_mxfp4_pass(
    folder: Path, changes: dict[str, object]
) -> None:
    change_config(folder, **changes)
    check_model_folder(folder)


def test_no_heavy_library_is_imported_to_refuse_a_model(folder: Path) -> None:
    change_config(folder, model_type="new9")
    program = (
        "import sys; from pathlib import Path; from search.errors import InputError\n"
        "from trainables.model_folder import check_causal\n"
        "try: check_causal(Path(sys.argv[1]))\n"
        "except InputError: print([name for name in ('torch', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program, folder], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_tables_are_transformers_own() -> None:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    assert causal_classes() == dict(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    assert known_families() <= set(CONFIG_MAPPING_NAMES)
    unknown = set(CONFIG_MAPPING_NAMES) - known_families()
    assert len(unknown) < 15
    assert not unknown & set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


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
        (configure(architectures=["LlamaForSequenceClassification"]), "model but LlamaForSequenceClassification"),
        (configure(architectures=["BertForSequenceClassification"], model_type="bert"), "but BertForSequence"),
        (
            configure(architectures=["T5ForConditionalGeneration"], model_type="t5", is_encoder_decoder=True),
            "not a causal language model but T5ForConditionalGeneration",
        ),
        (configure(architectures=["VitForCausalLM"], model_type="vit"), "no causal language model of model_type 'vit'"),
        (
            configure(architectures=["NewForCausalLM"], model_type="new9", transformers_version="9.0.0"),
            r"model_type 'new9', which the installed transformers \d+\.\S+ does not know, and it was written by "
            r"transformers 9.0.0: it may be newer than this lorafront, so upgrade",
        ),
        (
            configure(architectures=["OwnForCausalLM"], model_type="own", auto_map={"AutoModelForCausalLM": "own.Own"}),
            r"needs its own code \(trust_remote_code\), which lorafront never runs",
        ),
        (
            configure(
                architectures=["Gemma3ForConditionalGeneration"], model_type="gemma3",
                text_config={"model_type": "gemma3_text"}, vision_config={"hidden_size": 8},
            ),
            r"a vision-language model \(Gemma3ForCond\w+\).*save its text part \(model_type 'gemma3_text'\)",
        ),
        (
            configure(architectures=["Qwen2VL"], model_type="qwen2_vl", vision_config={"depth": 1}),
            "has no language model for its text part alone",
        ),
        (configure(quantization_config={"quant_method": "gptq"}), r"quantised \(gptq\) already: give the 16-bit"),
        (configure(quantization_config={"load_in_4bit": True}), r"quantised \(bitsandbytes\) already"),
        (configure(quantization_config={"quant_method": "fp8"}), r"quantised \(fp8\) already"),
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
