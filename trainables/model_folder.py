"""Is a local folder a causal language model in safetensors? Answered from a few bytes, without torch."""

import json
from pathlib import Path, PurePath
from typing import Any

from search.errors import InputError
from trainables.model_checks import check_causal_config

_LENGTH_BYTES = 8  # a safetensors file begins with its header's length: unsigned, 64 bits, little-endian
_MAX_HEADER_BYTES = 100_000_000  # limit of the safetensors format itself
_INDEX = "model.safetensors.index.json"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")


def check_model_folder(folder: Path) -> None:
    """Raises InputError, saying what is amiss, unless ``folder`` has config, whole weights and tokenizer."""
    check_causal(folder)
    for file in weight_files(folder):
        safetensors_header(file)
    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        raise InputError(
            f"base model {folder} has no tokenizer: none of {', '.join(_TOKENIZER_FILES)} is there"
        )


def read_config(folder: Path) -> dict[str, Any]:
    """The model's ``config.json``, of a folder or the file itself. Raises InputError: missing, or no JSON object."""
    if folder.is_file():
        return _read_json_object(folder)
    file = folder / "config.json"
    if not file.is_file():
        adapter = (folder / "adapter_config.json").is_file()
        hint = "it is a LoRA adapter: give the model it was trained on" if adapter else "not a model folder"
        raise InputError(f"base model {folder} has no config.json ({hint})")
    return _read_json_object(file)


def check_causal(folder: Path) -> None:
    """Raises InputError unless the model in ``folder`` is a causal language model that can be trained, no adapter."""
    config = read_config(folder)
    if (
        folder / "adapter_config.json"
    ).exists():  # transformers would load the model that it names, from anywhere
        raise InputError(
            f"base model {folder} has an adapter_config.json: give a folder with the model alone"
        )
    check_causal_config(f"base model {folder}", config)


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that make up the model, sorted.

    Raises:
        InputError: none are there, only pickles (never opened: they can run code), or a shard is missing.
    """
    if (folder / _INDEX).is_file():
        weight_map = _read_json_object(folder / _INDEX).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise InputError(f"{folder / _INDEX} has no weight_map")
        shards = sorted({str(name) for name in weight_map.values()})
        outside = [name for name in shards if name != PurePath(name).name]
        if outside:
            raise InputError(
                f"{folder / _INDEX} names {outside[0]!r}: a shard lies in the model's own folder"
            )
        missing = [name for name in shards if not (folder / name).is_file()]
        if missing:
            raise InputError(
                f"base model {folder} lacks {len(missing)} of {len(shards)} shards, first {missing[0]}"
            )
        return [folder / name for name in shards]
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    pickles = sorted(file.name for pattern in _PICKLES for file in folder.glob(pattern))
    if pickles:
        raise InputError(
            f"base model {folder} has pickled weights only ({pickles[0]}), which can run code when opened: "
            "convert them to safetensors"
        )
    raise InputError(f"base model {folder} has no weights: neither model.safetensors nor {_INDEX}")


def safetensors_header(file: Path) -> dict[str, dict[str, Any]]:
    """Each tensor's name with its ``dtype``, ``shape`` and ``data_offsets``; checks the file's length too.

    Raises:
        InputError: truncated or not a safetensors file.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(_LENGTH_BYTES), "little")
        if size < _LENGTH_BYTES or length > min(size - _LENGTH_BYTES, _MAX_HEADER_BYTES):
            raise InputError(f"{file} is corrupt: its {size} bytes hold no whole safetensors header")
        try:
            header = json.loads(stream.read(length))
            header.pop("__metadata__", None)
            data_bytes = max((entry["data_offsets"][1] for entry in header.values()), default=0)
        except (ValueError, AttributeError, KeyError, TypeError, IndexError) as error:
            raise InputError(f"{file} is corrupt: its safetensors header cannot be read ({error})") from error
    expected = _LENGTH_BYTES + length + data_bytes
    if size != expected:
        raise InputError(f"{file} is corrupt: {size} bytes, its header announces {expected}")
    return header


def _read_json_object(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{file} cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{file} holds {type(content).__name__} where a JSON object belongs")
    return content
