"""The built-in data: the standard library's functions and what their docstrings say first."""

from pathlib import Path

import pytest

from search.errors import BrokenEnvironmentError
from trainables import docstrings
from trainables.examples import Example

MODULE = '''
def shout(text):
    """Return the text
    in capitals.

    More about it.
    """
    # loudly
    return text.upper()

def brief(x):
    """See above."""
    return x

def empty():
    """There is nothing but this docstring."""

def long(x):
    """A function that goes on and on."""
    return [FILLER]

class Duck:
    @property
    def sound(self):
        """What the duck says to people."""
        return "quack"
'''


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A standard library of our own."""
    root = tmp_path / "lib"
    module = MODULE.replace("FILLER", ", ".join(["1000000"] * 300))
    for name in ("ducks/__init__.py", "ducks/copies.py", "test/test_ducks.py", "site-packages/other.py"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(module)
    (root / "broken.py").write_text("def (")
    (root / "birds.py").write_text('async def fly():\n    """Fly away to the south."""\n    await wings()\n')
    monkeypatch.setattr(docstrings.sysconfig, "get_paths", lambda: {"stdlib": str(root)})
    return root


def contents(examples: list[Example]) -> list[tuple[str, str]]:
    return [(example.messages[0].content, example.messages[1].content) for example in examples]


def test_pairs_of_source_and_first_paragraph(library: Path, tmp_path: Path) -> None:
    examples = docstrings.python_docstrings(tmp_path)
    assert [(example.group, example.where) for example in examples] == [
        ("birds", "birds.py:1"), ("ducks", "ducks/__init__.py:2"), ("ducks", "ducks/__init__.py:24"),
    ]  # fmt: skip
    assert contents(examples)[1] == (
        f"{docstrings.INSTRUCTION}\n\n```python\ndef shout(text):\n    return text.upper()\n```",
        "Return the text in capitals.",
    )
    assert "@property\ndef sound(self):\n    return 'quack'" in contents(examples)[2][0]


def test_the_cache_is_used_and_mended(library: Path, tmp_path: Path) -> None:
    cache_dir = tmp_path / "cache"
    built = docstrings.python_docstrings(cache_dir)
    (library / "birds.py").unlink()
    assert docstrings.python_docstrings(cache_dir) == built
    (cache,) = cache_dir.iterdir()  # and no temporary file
    cache.write_text("damaged")
    assert len(docstrings.python_docstrings(cache_dir)) == len(built) - 1


def test_a_cache_folder_that_cannot_be_made(library: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BrokenEnvironmentError, match="cannot write the cache"):
        docstrings.python_docstrings(tmp_path / "file" / "cache")


def test_a_python_without_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docstrings.sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path / "none")})
    with pytest.raises(BrokenEnvironmentError, match="no source files"):
        docstrings.python_docstrings(tmp_path)


@pytest.mark.slow
def test_the_real_library(tmp_path: Path) -> None:
    examples = docstrings.python_docstrings(tmp_path)
    assert len(examples) > 3000
    assert len({example.group for example in examples}) > 200
    pairs = contents(examples)
    assert len({prompt for prompt, _ in pairs}) == len(pairs)
    assert all(len(answer) >= 15 and answer == " ".join(answer.split()) for _, answer in pairs)
    assert docstrings.python_docstrings(tmp_path) == examples
