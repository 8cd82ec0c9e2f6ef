"""YAML for people: safe loading, one-line errors, and `1e-3` read as the number it looks like."""

import re
from pathlib import Path
from typing import Any

import yaml

from search.errors import InputError


class _Loader(yaml.SafeLoader):
    """SafeLoader that also knows floats without a dot: YAML 1.1 reads ``1e-3`` as text."""


class _Dumper(yaml.SafeDumper):
    """SafeDumper that quotes whatever text `_Loader` would read as a number (a name such as ``1e3``)."""


_FLOAT = re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$")
for _class in (_Loader, _Dumper):
    _class.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789"))


def parse_yaml(text: str, where: str) -> Any:
    """The value of a YAML text.

    Raises:
        InputError: not valid YAML; the message starts with ``where`` and names the line.
    """
    try:
        return yaml.load(text, Loader=_Loader)  # a SafeLoader
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
        raise InputError(f"{where}{line}: not valid YAML: {problem}") from error
    except (ValueError, RecursionError) as error:  # the date 2026-13-45; a thousand brackets
        raise InputError(f"{where}: not valid YAML: {error}") from error


def read_yaml_mapping(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        InputError: the file is missing, unreadable, not UTF-8, not YAML, or not a mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    content = parse_yaml(text, str(path))
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected a mapping of settings, found {type(content).__name__}")
    return content


def dump_yaml(content: dict[str, Any]) -> str:
    """YAML text in the given key order, lists of scalars on one line."""
    text: str = yaml.dump(
        content, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=None, width=110
    )
    return text
