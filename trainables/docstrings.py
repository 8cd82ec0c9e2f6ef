"""The built-in data: functions of Python's own standard library, and the first paragraph of their docstrings.

Every machine with Python has them, they need no download, and splitting by module keeps the splits apart.
"""

import ast
import copy
import json
import os
import platform
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

from search.errors import BrokenEnvironmentError
from trainables.examples import Example, Message

INSTRUCTION = "Say in one sentence what this Python function does."

# Raise it whenever other pairs come out below: it names the cache file.
_VERSION = 1
# Tests, and whole applications that only some installations have. Folders that are no package (site-packages,
# lib-dynload, config-3.11-...) have names that are no identifiers.
_SKIPPED_FOLDERS = {"test", "tests", "idlelib", "lib2to3", "turtledemo", "__pycache__"}
_SHORTEST_ANSWER_CHARS = 15  # 2 % of the docstrings are shorter, such as "See super."
_LONGEST_SOURCE_CHARS = 2000  # 2 % of the functions are longer; about 500 tokens


def python_docstrings(cache_dir: Path) -> list[Example]:
    """About 5,400 pairs of 300 modules (3.11: 5,459 of 327; 3.12: 5,251 of 297), by module and line.

    The module is the group. They are built once per Python version (about 5 s) and kept in ``cache_dir``.

    Raises:
        BrokenEnvironmentError: this Python has no library sources, or the cache cannot be written.
    """
    version = f"{platform.python_implementation().lower()}-{platform.python_version()}"
    cache = cache_dir / f"python-docstrings-v{_VERSION}-{version}.jsonl"
    try:
        return _read(cache)
    except (OSError, ValueError, TypeError):  # not built yet, or damaged
        pass
    root = Path(sysconfig.get_paths()["stdlib"])
    examples = list(_distinct(root))
    if not examples:
        raise BrokenEnvironmentError(
            f"Python's library has no source files in {root}: give --data of your own"
        )
    try:
        _write(cache, examples)
    except OSError as error:
        raise BrokenEnvironmentError(f"cannot write the cache {cache}: {error.strerror or error}") from error
    return examples


def _distinct(root: Path) -> Iterator[Example]:
    """The examples of all modules, without functions that occur twice: they could be in two splits."""
    seen: set[tuple[str, ...]] = set()
    for path in _source_files(root):
        for function in _functions(path):
            answer = _first_paragraph(function)
            source = _without_docstring(function)
            if len(answer) < _SHORTEST_ANSWER_CHARS or not source or len(source) > _LONGEST_SOURCE_CHARS:
                continue
            keys = {(source,), (function.name, answer)}
            if keys & seen:
                continue
            seen |= keys
            yield _example(source, answer, path.relative_to(root), function.lineno)


def _source_files(root: Path) -> Iterator[Path]:
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if name.isidentifier() and name not in _SKIPPED_FOLDERS)
        yield from (Path(folder, name) for name in sorted(files) if name.endswith(".py"))


def _functions(path: Path) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    """All functions of a file that have a docstring, by line."""
    try:
        tree = ast.parse(path.read_bytes())
    except SyntaxError:
        return []
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return sorted(filter(ast.get_docstring, functions), key=lambda function: function.lineno)


def _first_paragraph(function: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    return " ".join((ast.get_docstring(function) or "").split("\n\n")[0].split())


def _without_docstring(function: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    """The function's source as `ast.unparse` writes it, without comments; empty if it is all docstring."""
    stripped = copy.copy(function)
    stripped.body = function.body[1:]
    return ast.unparse(stripped) if stripped.body else ""


def _example(source: str, answer: str, path: Path, line: int) -> Example:
    module = ".".join(path.with_suffix("").parts).removesuffix(".__init__")
    prompt = f"{INSTRUCTION}\n\n```python\n{source}\n```"
    return Example(
        (Message("user", prompt), Message("assistant", answer)), module, f"{path.as_posix()}:{line}"
    )


def _read(cache: Path) -> list[Example]:
    rows = [json.loads(line) for line in cache.read_text(encoding="utf-8").splitlines()]
    return [
        Example((Message("user", p), Message("assistant", r)), group, where) for p, r, group, where in rows
    ]


def _write(cache: Path, examples: list[Example]) -> None:
    cache.parent.mkdir(parents=True, exist_ok=True)
    rows = [[*(message.content for message in e.messages), e.group, e.where] for e in examples]
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=cache.parent, delete=False) as file:
        try:
            file.writelines(json.dumps(row) + "\n" for row in rows)
            file.close()
            os.replace(file.name, cache)
        except OSError:
            os.unlink(file.name)
            raise
