"""Prepared data kept on disk: the same data are not read, split and tokenised again by the next sweep."""

import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trainables.chat import TokenizedExample
from trainables.kept_arrays import kept
from trainables.settings import DataSettings

SPLITS = ("train", "validation", "test")
_LIBRARIES = ("transformers", "tokenizers", "pyarrow")
_WEIGHTS = (".safetensors", ".gguf", ".bin")


@dataclass(frozen=True, eq=False)
class PreparedData:
    """Everything a worker needs of the data; small, and pickles.

    ``fingerprint`` (sha256) is equal when sequence length, tokens, targets and splits are. ``counts`` has, in
    examples: ``rows`` read, ``train_pool`` (what the split left for training), ``train`` (of it, used),
    ``validation``, ``test``, ``truncated`` (in all three); and ``groups``, and ``longest_tokens``.
    """

    train: tuple[TokenizedExample, ...]
    validation: tuple[TokenizedExample, ...]
    test: tuple[TokenizedExample, ...]
    pad_token_id: int
    fingerprint: str
    counts: dict[str, int]


def kept_data(
    settings: DataSettings,
    tokenizer_path: str,
    wanted: str,
    cache_dir: Path,
    prepare: Callable[[], PreparedData],
) -> PreparedData:
    """The prepared data: from the cache, else from ``prepare``.

    They are the same as long as the settings, ``wanted`` (which of the examples), path, size and time of the data file,
    the tokenizer's files and the code are. A hub data set is prepared each time: only its hub knows its version.
    """
    source = _source(settings)
    if source is None:
        return prepare()
    question = f"{source} {settings.model_dump_json()} {wanted} {_tokenizer(Path(tokenizer_path))}"
    folder = cache_dir / "data"
    return kept(folder, question, _LIBRARIES, prepare, as_arrays=_as_arrays, from_arrays=_from_arrays)


def _source(settings: DataSettings) -> str | None:
    if settings.source.startswith("builtin:"):
        return f"{settings.source} {sys.version}"
    try:
        path = Path(settings.source).expanduser().resolve(strict=True)
        stat = path.stat()
    except OSError:
        return None
    return f"{path} {stat.st_size} {stat.st_mtime_ns}"


def _tokenizer(folder: Path) -> str:
    digest = hashlib.sha256()
    with suppress(OSError):  # there is none, which `prepare` will say
        for file in sorted(folder.iterdir()):
            if file.is_file() and not file.name.endswith(_WEIGHTS):
                digest.update(file.name.encode() + b" " + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def _as_arrays(data: PreparedData) -> dict[str, np.ndarray]:
    rest = {"pad_token_id": data.pad_token_id, "fingerprint": data.fingerprint, "counts": data.counts}
    arrays = {"rest": np.array(json.dumps(rest))}
    for split in SPLITS:
        arrays |= _split_arrays(split, getattr(data, split))
    return arrays


def _split_arrays(split: str, examples: Sequence[TokenizedExample]) -> dict[str, np.ndarray]:
    return {
        f"{split}_ids": np.concatenate([example.input_ids for example in examples]),
        f"{split}_supervised": np.concatenate([example.supervised for example in examples]),
        f"{split}_lengths": np.array([len(example.input_ids) for example in examples]),
        f"{split}_truncated": np.array([example.truncated for example in examples]),
    }


def _from_arrays(arrays: Any) -> PreparedData:
    train, validation, test = (_split_examples(split, arrays) for split in SPLITS)
    return PreparedData(train, validation, test, **json.loads(str(arrays["rest"])))


def _split_examples(split: str, arrays: Any) -> tuple[TokenizedExample, ...]:
    ends = arrays[f"{split}_lengths"].cumsum()[:-1]
    ids, supervised = (np.split(arrays[f"{split}_{name}"], ends) for name in ("ids", "supervised"))
    truncated = arrays[f"{split}_truncated"].tolist()
    return tuple(map(TokenizedExample, ids, supervised, truncated))
