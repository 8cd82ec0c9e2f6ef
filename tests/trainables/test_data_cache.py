import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.trainables.tokenizers_for_tests import tiny_tokenizer
from trainables import data
from trainables.data import PreparedData, prepare_data
from trainables.data_cache import SPLITS
from trainables.settings import DataSettings


@pytest.fixture
def tokenizer(tmp_path: Path) -> str:
    return tiny_tokenizer(tmp_path / "tokenizer")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    file = tmp_path / "rows.csv"
    file.write_text("prompt,response\n" + "".join(f"what is {n}{' or' * (n % 5)}?,{n}\n" for n in range(60)))
    return file


@pytest.fixture
def times_read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """One entry for every time that a source was read."""
    times: list[str] = []
    read = data.read_examples

    def counting(settings: DataSettings, cache_dir: Path) -> Any:
        times.append(settings.source)
        return read(settings, cache_dir)

    monkeypatch.setattr(data, "read_examples", counting)
    return times


def prepare(source: Path, tokenizer: str, seed: int = 0, **settings: Any) -> PreparedData:
    settings = {"source": str(source), "seq_len": 16, **settings}
    cache = source.parent / "cache"
    return prepare_data(DataSettings(**settings), tokenizer, train_examples=20, seed=seed, cache_dir=cache)


def kept_files(source: Path) -> list[Path]:
    return list((source.parent / "cache" / "data").iterdir())


def test_the_second_time_is_the_first(source: Path, tokenizer: str, times_read: list[str]) -> None:
    first, second = prepare(source, tokenizer), prepare(source, tokenizer)
    assert len(times_read) == 1
    assert (first.fingerprint, first.counts, first.pad_token_id) == (
        second.fingerprint, second.counts, second.pad_token_id,
    )  # fmt: skip
    for split in SPLITS:
        for one, other in zip(getattr(first, split), getattr(second, split), strict=True):
            np.testing.assert_array_equal(one.input_ids, other.input_ids)
            np.testing.assert_array_equal(one.supervised, other.supervised)
            assert one.truncated is other.truncated
            assert one.input_ids.dtype == other.input_ids.dtype
            assert one.supervised.dtype == other.supervised.dtype
    assert any(example.truncated for example in second.train)


def test_what_matters_is_prepared_anew(source: Path, tokenizer: str, times_read: list[str]) -> None:
    prepare(source, tokenizer)
    prepare(source, tokenizer, seed=1)
    prepare(source, tokenizer, seq_len=24)
    assert len(times_read) == 3
    source.write_text(source.read_text().replace("what is 7", "what is 8"))
    os.utime(source, ns=(0, 0))
    prepare(source, tokenizer)
    assert len(times_read) == 4
    (Path(tokenizer) / "another.json").write_text("{}")
    prepare(source, tokenizer)
    assert len(times_read) == 5


def test_a_broken_or_lost_file_is_made_anew(source: Path, tokenizer: str, times_read: list[str]) -> None:
    first = prepare(source, tokenizer)
    (file,) = kept_files(source)
    file.write_bytes(file.read_bytes()[:100])
    assert prepare(source, tokenizer).fingerprint == first.fingerprint
    shutil.rmtree(source.parent / "cache")
    assert prepare(source, tokenizer).fingerprint == first.fingerprint
    assert len(times_read) == 3


def test_others_cannot_read_it(source: Path, tokenizer: str) -> None:
    prepare(source, tokenizer)
    assert [file.stat().st_mode & 0o077 for file in kept_files(source)] == [0]


def test_a_cache_that_cannot_be_written_only_costs_time(source: Path, tokenizer: str) -> None:
    (source.parent / "cache").write_text("a file")
    assert prepare(source, tokenizer).counts["rows"] == 60
