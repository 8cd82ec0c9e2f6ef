from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from search.errors import BrokenEnvironmentError, InputError
from tests.tiny import TEXTS, tiny_llama
from tests.trainables.tiny_gguf import write_gguf
from trainables.base_models import load_base_model
from trainables.gguf import check_gguf_magic, convert_gguf, convert_gguf_apart
from trainables.model_folder import check_model_folder, read_config

ODD_TEXT = "x = [1,  23]\n    if a1b : print('déjà 你好 !')  \t\n"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("original"))


@pytest.fixture(scope="module")
def converted(original: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("converted")
    convert_gguf(write_gguf(original, folder / "tiny.gguf"), folder / "model")
    return folder / "model"


def tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    return AutoTokenizer.from_pretrained(folder)


def test_the_converted_folder_is_whole_and_small(converted: Path) -> None:
    check_model_folder(converted)
    assert not (converted / "tokenizer.model").exists()


def test_the_config_says_bf16_and_tied_embeddings(converted: Path) -> None:
    config = read_config(converted)
    assert config["dtype"] == "bfloat16"
    assert config["tie_word_embeddings"] is True


def test_the_model_computes_what_the_original_does(original: Path, converted: Path) -> None:
    ids = torch.tensor([tokenizer(original)(TEXTS[0]).input_ids])
    with torch.no_grad():
        before = load_base_model(original, dtype="fp32", device="cpu")(ids).logits
        after = load_base_model(converted, dtype="fp32", device="cpu")(ids).logits
    assert torch.equal(before, after)


@pytest.mark.parametrize("text", [*TEXTS, ODD_TEXT])
def test_text_becomes_the_same_tokens_and_comes_back(original: Path, converted: Path, text: str) -> None:
    ids = tokenizer(converted)(text).input_ids
    assert ids == tokenizer(original)(text).input_ids
    assert tokenizer(converted).decode(ids) == text


def test_special_tokens_and_chat_template_survive(original: Path, converted: Path) -> None:
    after = tokenizer(converted)
    assert (after.bos_token, after.eos_token, after.pad_token) == (
        "<|im_start|>",
        "<|im_end|>",
        "<|endoftext|>",
    )
    assert after.chat_template == tokenizer(original).chat_template
    assert after.model_max_length == 2048
    assert set(after("hello")) == {"input_ids", "attention_mask"}


@pytest.mark.parametrize(
    ("splitting", "add_bos", "begins_with_bos"),
    [("smollm", True, True), ("smollm", None, False), ("llama-bpe", None, True), ("llama-bpe", False, False)],
)
def test_bos_is_prepended_where_the_file_or_llama3_says_so(
    original: Path, tmp_path: Path, splitting: str, add_bos: bool | None, begins_with_bos: bool
) -> None:
    file = write_gguf(original, tmp_path / "tiny.gguf", add_bos=add_bos, splitting=splitting)
    convert_gguf(file, tmp_path / "model")
    after = tokenizer(tmp_path / "model")
    ids = after("hello").input_ids
    assert (ids[0] == after.bos_token_id) is begins_with_bos
    assert after.bos_token_id not in ids[1:]


def test_llama3_text_is_split_in_groups_of_three_digits(original: Path, tmp_path: Path) -> None:
    convert_gguf(write_gguf(original, tmp_path / "tiny.gguf", splitting="llama-bpe"), tmp_path / "model")
    split = tokenizer(tmp_path / "model").backend_tokenizer.pre_tokenizer.pre_tokenize_str("I'LL pay 12345\n")
    assert [piece for piece, _ in split] == ["I", "'LL", "Ġpay", "Ġ", "123", "45", "Ċ"]


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"PK\x03\x04 not a model")
    with pytest.raises(InputError, match=r"is not a GGUF file: it begins with b'PK"):
        check_gguf_magic(file)


@pytest.mark.parametrize("kept", [0.5, 0.999])
def test_a_truncated_file_is_refused(original: Path, tmp_path: Path, kept: float) -> None:
    file = write_gguf(original, tmp_path / "tiny.gguf")
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * kept)])
    with pytest.raises(InputError, match="corrupt or truncated"):
        convert_gguf(file, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_an_unknown_architecture_is_refused(original: Path, tmp_path: Path) -> None:
    file = write_gguf(original, tmp_path / "tiny.gguf", architecture="plamo")
    with pytest.raises(InputError, match=r"architecture 'plamo' cannot be converted; can be: .*llama"):
        convert_gguf(file, tmp_path / "model")


def test_scaled_rotary_embeddings_are_refused_rather_than_lost(original: Path, tmp_path: Path) -> None:
    file = write_gguf(original, tmp_path / "tiny.gguf", scaled_rope=True)
    with pytest.raises(InputError, match="scaled rotary embeddings"):
        convert_gguf(file, tmp_path / "model")


def test_a_dying_child_is_an_environment_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "tiny.gguf"
    file.touch()
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(BrokenEnvironmentError, match=r"exit code 1 \(out of memory\?\)"):
        convert_gguf_apart(file, tmp_path / "model")


def test_a_childs_complaint_about_the_file_arrives_as_an_input_error(tmp_path: Path) -> None:
    file = tmp_path / "tiny.gguf"
    file.write_bytes(b"GGUF")
    with pytest.raises(InputError, match=r"^\S+tiny.gguf is a corrupt or truncated GGUF file"):
        convert_gguf_apart(file, tmp_path / "model")
