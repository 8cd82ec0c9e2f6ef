"""The whole way from a file to token sequences."""

import json
import pickle
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from search.errors import InputError
from tests.trainables.tokenizers_for_tests import tiny_tokenizer
from trainables import data
from trainables.data import PreparedData, prepare_data
from trainables.settings import DataSettings


@pytest.fixture(scope="module")
def tokenizer_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Forty groups of three examples; every text says its group."""
    path = tmp_path_factory.mktemp("data") / "data.jsonl"
    rows = [
        {"prompt": f"Question {n} of group <{n // 3}>", "response": f"Answer {n}", "group": f"g{n // 3}"}
        for n in range(120)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def prepare(
    source: str, tokenizer_path: str, train_examples: int = 30, seed: int = 0, **settings: Any
) -> PreparedData:
    """Anew every time: nothing is in the cache."""
    with TemporaryDirectory() as cache:
        return prepare_data(
            DataSettings(source=source, **{"validation_examples": 9, "test_examples": 6, **settings}),
            tokenizer_path,
            train_examples=train_examples,
            seed=seed,
            cache_dir=Path(cache),
        )


def ids(examples: tuple[data.TokenizedExample, ...]) -> list[list[int]]:
    return [example.input_ids.tolist() for example in examples]


def test_counts(source: str, tokenizer_path: str) -> None:
    prepared = prepare(source, tokenizer_path)
    longest = prepared.counts.pop("longest_tokens")
    assert prepared.counts == {
        "rows": 120, "groups": 40, "train_pool": 105, "train": 30, "validation": 9, "test": 6, "truncated": 0,
    }  # fmt: skip
    assert longest == max(map(len, ids(prepared.train + prepared.validation + prepared.test)))
    assert (len(prepared.train), len(prepared.validation), len(prepared.test)) == (30, 9, 6)


def test_no_group_is_in_two_splits(source: str, tokenizer_path: str) -> None:
    prepared = prepare(source, tokenizer_path, train_examples=1000)
    tokenizer = data.load_tokenizer(tokenizer_path)

    def groups(examples: tuple[data.TokenizedExample, ...]) -> set[str]:
        return {tokenizer.decode(example.input_ids).partition("<")[2].split("<")[1] for example in examples}

    splits = [groups(part) for part in (prepared.train, prepared.validation, prepared.test)]
    assert sum(map(len, splits)) == len(set.union(*splits)) == 40


def test_the_seed_chooses_training_examples_only(source: str, tokenizer_path: str) -> None:
    first, second = (
        prepare(source, tokenizer_path),
        prepare(source, tokenizer_path, train_examples=50, seed=1),
    )
    assert ids(first.validation) == ids(second.validation)
    assert ids(first.test) == ids(second.test)
    assert ids(first.train) != ids(second.train)[:30]
    assert ids(prepare(source, tokenizer_path, train_examples=50).train)[:30] == ids(first.train)


def test_the_fingerprint_tells_data_apart(source: str, tokenizer_path: str) -> None:
    prepared = prepare(source, tokenizer_path)
    assert prepare(source, tokenizer_path).fingerprint == prepared.fingerprint
    others = [{"seed": 1}, {"train_examples": 29}, {"seq_len": 129}, {"split_seed": 1}, {"test_examples": 3}]
    prints = {prepare(source, tokenizer_path, **other).fingerprint for other in others}
    assert len(prints | {prepared.fingerprint}) == len(others) + 1


def test_truncation_is_counted(source: str, tokenizer_path: str) -> None:
    prepared = prepare(source, tokenizer_path, seq_len=16)
    assert prepared.counts["truncated"] == 45
    assert prepared.counts["longest_tokens"] == 16


def test_only_what_is_used_is_tokenised(
    source: str, tokenizer_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[int] = []
    real = data.encode_all

    def count(examples: Any, *rest: Any) -> list[data.TokenizedExample]:
        encoded.append(len(examples))
        return real(examples, *rest)

    monkeypatch.setattr(data, "encode_all", count)
    prepare(source, tokenizer_path, train_examples=4)
    assert sorted(encoded) == [4, 6, 9]


def test_it_pickles(source: str, tokenizer_path: str) -> None:
    prepared = prepare(source, tokenizer_path)
    again = pickle.loads(pickle.dumps(prepared))
    assert ids(again.train) == ids(prepared.train)
    assert again.fingerprint == prepared.fingerprint
    assert again.pad_token_id == data.load_tokenizer(tokenizer_path).pad_token_id


def test_a_folder_without_a_tokenizer(source: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text('{"model": 3}')
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(InputError, match="no usable tokenizer"):
            prepare(source, str(folder))
