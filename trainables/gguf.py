"""A GGUF file becomes a bf16 safetensors folder that plain transformers loads in a second.

``transformers`` reads the file (it de-quantizes the weights and undoes llama.cpp's row order for rotary
embeddings) but gets parts of the tokenizer wrong, so the tokenizer is put right here from the file's own
metadata. The weights pass through fp32 in memory; a child process gives it back: `convert_gguf_apart`.
"""

import functools
import os
import subprocess
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

from search.errors import BrokenEnvironmentError, InputError

if TYPE_CHECKING:
    from gguf import GGUFReader
    from transformers import PreTrainedTokenizerFast

CONVERTER_VERSION = 1
"""Part of the cache key: raise it when a change here makes older conversions wrong."""

_MAGIC = b"GGUF"
_CONTROL_TOKEN = 3  # token type "control" of the GGUF specification: never produced from plain text
# How Llama-3 cuts text before byte-pair merging: the pattern in the tokenizer.json that Meta publishes.
_LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)


def check_gguf_magic(file: Path) -> None:
    """Raises InputError unless ``file`` begins like a GGUF file."""
    with file.open("rb") as stream:
        start = stream.read(len(_MAGIC))
    if start != _MAGIC:
        raise InputError(f"{file} is not a GGUF file: it begins with {start!r}, not {_MAGIC!r}")


def convert_gguf_apart(file: Path, folder: Path) -> None:
    """`convert_gguf` in a child process: its memory is returned and its progress bars stay out of sight.

    Raises:
        InputError: the file cannot be converted.
        BrokenEnvironmentError: the child died, most likely for want of memory.
    """
    root = str(Path(__file__).resolve().parents[1])
    search_path = os.pathsep.join(part for part in (root, os.environ.get("PYTHONPATH")) if part)
    child = subprocess.run(
        [sys.executable, "-P", "-m", "trainables.gguf", str(file), str(folder)],
        env={**os.environ, "PYTHONPATH": search_path},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )
    last_line = (child.stderr.strip().splitlines() or ["it said nothing"])[-1]
    if child.returncode == 2:
        raise InputError(last_line.removeprefix("error: "))
    if child.returncode != 0:
        raise BrokenEnvironmentError(
            f"converting {file} stopped with exit code {child.returncode} (out of memory?): {last_line}"
        )


def convert_gguf(file: Path, folder: Path) -> None:
    """Write the model and tokenizer of ``file`` to ``folder`` as bf16 safetensors and tokenizer.json.

    Raises:
        InputError: corrupt, of an architecture that transformers does not convert, or with scaled rotary
            embeddings, which would be lost.
    """
    check_gguf_magic(file)
    reader = _read(file)  # before the slow imports: a corrupt file is answered at once

    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    architecture = _check_supported(file, reader)
    try:
        with _parsed_once(reader):
            tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
            model = AutoModelForCausalLM.from_pretrained(
                file.parent, gguf_file=file.name, torch_dtype=torch.bfloat16
            )
    except (ValueError, KeyError, TypeError, RuntimeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"{file}: transformers cannot convert this {architecture} GGUF: {reason}") from error
    # transformers 5 calls these plain weights quantised, and would not save them.
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(folder, safe_serialization=True)
    _repaired(tokenizer, reader).save_pretrained(folder)


def _read(file: Path) -> "GGUFReader":
    import gguf

    try:
        return gguf.GGUFReader(file)
    except Exception as error:  # the parser fails in many ways on damaged bytes
        raise InputError(f"{file} is a corrupt or truncated GGUF file: {error}") from error


def _parsed_once(reader: "GGUFReader") -> AbstractContextManager[Any]:
    """Let transformers reuse ``reader`` and one table of tensor names.

    It parses the file four times (3 s each for a vocabulary of 49k) and builds the table 397 times (5 s).
    """
    import gguf

    names = functools.cache(gguf.get_tensor_name_map)
    return mock.patch.multiple(gguf, GGUFReader=lambda path: reader, get_tensor_name_map=names)


def _check_supported(file: Path, reader: "GGUFReader") -> str:
    from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES

    architecture = str(_metadata(reader, "general.architecture"))
    if architecture not in GGUF_SUPPORTED_ARCHITECTURES:
        supported = ", ".join(sorted(GGUF_SUPPORTED_ARCHITECTURES))
        raise InputError(
            f"{file}: GGUF architecture {architecture!r} cannot be converted; can be: {supported}"
        )
    if any(tensor.name == "rope_freqs.weight" for tensor in reader.tensors):
        raise InputError(
            f"{file}: its scaled rotary embeddings (Llama 3.1 and later) would be lost in the conversion; "
            "give the model's safetensors folder or hub id instead"
        )
    return architecture


def _metadata(reader: "GGUFReader", key: str, default: Any = None) -> Any:
    field = reader.fields.get(key)
    return default if field is None else field.contents()


def _repaired(tokenizer: "PreTrainedTokenizerFast", reader: "GGUFReader") -> "PreTrainedTokenizerFast":
    """The same vocabulary with the special tokens, text splitting and BOS rule that the file asks for.

    transformers 4.51 takes BOS as EOS, always prepends BOS, splits every byte-level model's text like
    GPT-2, drops spaces before punctuation when decoding, and saves the whole GGUF as ``tokenizer.model``.
    """
    from transformers import PreTrainedTokenizerFast

    tokens = _metadata(reader, "tokenizer.ggml.tokens")
    names = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
    ids = {ours: _metadata(reader, f"tokenizer.ggml.{theirs}_token_id") for ours, theirs in names.items()}
    special = {name: tokens[token_id] for name, token_id in ids.items() if token_id is not None}
    special.setdefault("pad_token", special.get("eos_token", tokens[0]))

    backend = tokenizer.backend_tokenizer
    _split_text_as_trained(backend, _metadata(reader, "tokenizer.ggml.pre", "default"))
    _prepend_bos(backend, special.get("bos_token"), reader)
    architecture = _metadata(reader, "general.architecture")
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        chat_template=_metadata(reader, "tokenizer.chat_template"),
        model_max_length=_metadata(reader, f"{architecture}.context_length"),
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],  # decoder models refuse token_type_ids
        **special,
    )


def _split_text_as_trained(backend: Any, splitting: str) -> None:
    """Set the pre-tokenizer that llama.cpp's ``tokenizer.ggml.pre`` names; others stay as converted."""
    from tokenizers import Regex, pre_tokenizers

    byte_level = functools.partial(pre_tokenizers.ByteLevel, add_prefix_space=False)
    if splitting in ("smollm", "starcoder", "refact", "command-r"):  # llama.cpp gives the four one rule
        digits = pre_tokenizers.Digits(individual_digits=True)
        backend.pre_tokenizer = pre_tokenizers.Sequence([digits, byte_level(use_regex=True)])
    elif splitting == "llama-bpe":
        words = pre_tokenizers.Split(Regex(_LLAMA3_PATTERN), behavior="isolated")
        backend.pre_tokenizer = pre_tokenizers.Sequence([words, byte_level(use_regex=False)])
        backend.model.ignore_merges = (
            True  # as in Llama-3's tokenizer.json: a whole word in the vocabulary wins
        )


def _prepend_bos(backend: Any, bos: str | None, reader: "GGUFReader") -> None:
    """Prepend BOS where the file says so; by default SentencePiece and Llama-3 models do, as in llama.cpp."""
    from tokenizers import processors

    default = (
        _metadata(reader, "tokenizer.ggml.model") == "llama"
        or _metadata(reader, "tokenizer.ggml.pre") == "llama-bpe"
    )
    if bos is not None and _metadata(reader, "tokenizer.ggml.add_bos_token", default):
        backend.post_processor = processors.TemplateProcessing(
            single=[bos, "$A"], pair=[bos, "$A", "$B"], special_tokens=[(bos, backend.token_to_id(bos))]
        )
    else:
        backend.post_processor = processors.TemplateProcessing(single=["$A"], pair=["$A", "$B"])


def main() -> int:
    """The child process of `convert_gguf_apart`: arguments are the file and the folder."""
    try:
        convert_gguf(Path(sys.argv[1]), Path(sys.argv[2]))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
