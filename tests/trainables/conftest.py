"""A tiny model, and data for it, for the tests that train; a test file's own fixtures of these names come first."""

from pathlib import Path

import pytest

from tests.tiny import tiny_llama
from trainables.data import PreparedData, prepare_data
from trainables.settings import DataSettings


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Llama."""
    return tiny_llama(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def data(folder: Path) -> PreparedData:
    """Examples of many lengths: rounds of 5 and 20 leave the last batch with one example, so one device with none."""
    rows = folder.parent / "rows.csv"
    lines = [f"what is {n}{' and so on' * (n % 5)}?,it is {n} of course\n" for n in range(60)]
    rows.write_text("prompt,response\n" + "".join(lines))
    settings = DataSettings(source=str(rows), seq_len=48)
    return prepare_data(settings, str(folder), train_examples=25, seed=0, cache_dir=folder.parent)
