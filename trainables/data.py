"""From a data source to the token sequences of three splits: the one entry point is `prepare_data`."""

import hashlib
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from search.errors import InputError
from trainables.chat import TokenizedExample, encode_all
from trainables.data_cache import PreparedData, kept_data
from trainables.examples import Example
from trainables.settings import DataSettings
from trainables.sources import read_examples
from trainables.splits import split_by_group

__all__ = ["PreparedData", "load_tokenizer", "prepare_data"]

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def prepare_data(
    settings: DataSettings, tokenizer_path: str, *, train_examples: int, seed: int, cache_dir: Path
) -> PreparedData:
    """Read, split and tokenise, once: the same data are found in the cache afterwards (`trainables.data_cache`).

    Validation and test depend on ``settings`` alone. Training takes ``train_examples`` of the rest (all, if
    there are fewer), chosen by ``seed``; only what is used is tokenised.

    Args:
        settings: source, sequence length and splits.
        tokenizer_path: folder of the base model's tokenizer.
        train_examples: the most distinct examples that a trial will see.
        seed: which training examples.
        cache_dir: where the built-in data, and data once prepared, are kept.

    Raises:
        InputError: the data are unreadable, bad, or too few to split, or there is no usable tokenizer.
    """
    wanted = f"{train_examples} {seed}"
    return kept_data(
        settings,
        tokenizer_path,
        wanted,
        cache_dir,
        lambda: _prepare(settings, tokenizer_path, train_examples, seed, cache_dir),
    )


def _prepare(
    settings: DataSettings, tokenizer_path: str, train_examples: int, seed: int, cache_dir: Path
) -> PreparedData:
    examples = read_examples(settings, cache_dir)
    splits = split_by_group([example.group for example in examples], settings)
    pool = splits["train"]
    splits["train"] = np.random.default_rng(seed).permutation(pool)[:train_examples].tolist()
    tokenizer = load_tokenizer(tokenizer_path)
    tokens = {
        name: _encode(examples, members, tokenizer, settings.seq_len) for name, members in splits.items()
    }
    everything = list(chain.from_iterable(tokens.values()))
    return PreparedData(
        **tokens,
        pad_token_id=_pad_token_id(tokenizer),
        fingerprint=_fingerprint(tokens, settings.seq_len),
        counts={
            "rows": len(examples),
            "groups": len({example.group for example in examples}),
            "train_pool": len(pool),
            **{name: len(part) for name, part in tokens.items()},
            "truncated": sum(example.truncated for example in everything),
            "longest_tokens": max(len(example.input_ids) for example in everything),
        },
    )


def load_tokenizer(path: str) -> "PreTrainedTokenizerBase":
    """The fast tokenizer in a local folder.

    Raises:
        InputError: there is none, or it has no fast form (which knows where in the text its tokens are).
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # a damaged tokenizer.json raises a bare Exception
        reason = str(error).strip().partition("\n")[0]
        raise InputError(f"no usable tokenizer in {path!r}: {reason}") from error
    if not tokenizer.is_fast:
        raise InputError(f"the tokenizer in {path!r} has no fast form (tokenizer.json), which is needed")
    return tokenizer


def _encode(
    examples: list[Example], members: list[int], tokenizer: "PreTrainedTokenizerBase", seq_len: int
) -> tuple[TokenizedExample, ...]:
    return tuple(encode_all([examples[index] for index in members], tokenizer, seq_len))


def _pad_token_id(tokenizer: "PreTrainedTokenizerBase") -> int:
    """Any token will do, since padding is masked."""
    for token_id in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if token_id is not None:
            return int(token_id)
    return 0


def _fingerprint(splits: dict[str, tuple[TokenizedExample, ...]], seq_len: int) -> str:
    digest = hashlib.sha256(f"seq_len {seq_len}".encode())
    for name, examples in splits.items():
        digest.update(f"{name} {len(examples)}".encode())
        for example in examples:
            digest.update(f"{len(example.input_ids)}".encode())
            digest.update(example.input_ids.astype("<i4").tobytes())
            digest.update(example.supervised.tobytes())
    return digest.hexdigest()
