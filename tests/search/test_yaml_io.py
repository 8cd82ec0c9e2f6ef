"""YAML for people: numbers without a dot, one-line errors, and text that comes back as it was written."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.errors import InputError
from search.yaml_io import dump_yaml, parse_yaml, read_yaml_mapping


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1E-3", 0.001),
        ("-2e5", -200000.0),
        ("1.e3", 1000.0),
        ("1.5e-4", 0.00015),
        ("3e+2", 300.0),
        ("0.001", 0.001),
        ("[1e-4, 2e-4]", [1e-4, 2e-4]),
    ],
)
def test_what_looks_like_a_number_is_one(text: str, value: Any) -> None:
    assert parse_yaml(text, "here") == value


@pytest.mark.parametrize("text", ["1e", "e3", "1e3b", "1e-", "v1e3", "1e3.5", "'1e3'"])
def test_what_only_resembles_a_number_stays_text(text: str) -> None:
    assert parse_yaml(text, "here") == text.strip("'")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: [1, 2", r"^here:2: not valid YAML: "),
        ("a: 1\n\tb: 2", r"^here:2: not valid YAML: "),
        ("a: {b", r"^here:1: not valid YAML: "),
        ("a: \x00", r"^here: not valid YAML: unacceptable character"),
        ("a: 2026-13-45", r"^here: not valid YAML: month must be"),
        ("a: 0x_", r"^here: not valid YAML: "),
        ("a: *missing", r"^here:1: not valid YAML: "),
        ("[" * 1200, r"^here: not valid YAML: "),
    ],
)
def test_malformed_yaml_is_one_line_with_its_place(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        parse_yaml(text, "here")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["!!python/object/apply:os.system ['true']", "!!python/name:os.system", "!x 1"]
)
def test_yaml_cannot_build_python_objects(text: str) -> None:
    with pytest.raises(InputError, match="could not determine a constructor"):
        parse_yaml(text, "here")


def test_a_mapping_is_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text("name: größe\nspace: {learning_rate: 1e-3}\n", encoding="utf-8")
    assert read_yaml_mapping(path) == {"name": "größe", "space": {"learning_rate": 0.001}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected a mapping of settings, found NoneType"),
        (b"- a\n- b\n", "expected a mapping of settings, found list"),
        (b"just text", "expected a mapping of settings, found str"),
        (b"a: \xff\xfe", "cannot read"),
        (b"a: [", ":1: not valid YAML"),
    ],
)
def test_a_file_that_is_no_mapping_is_named_in_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "broken.yaml"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read_yaml_mapping(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_folder_are_named_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^cannot read .*absent\.yaml: No such file or directory$"):
        read_yaml_mapping(tmp_path / "absent.yaml")
    with pytest.raises(InputError, match=r"^cannot read .*: Is a directory$"):
        read_yaml_mapping(tmp_path)


def test_a_dump_keeps_order_and_puts_short_lists_on_one_line() -> None:
    assert dump_yaml({"b": [1, 2], "a": "é"}) == "b: [1, 2]\na: é\n"


# PyYAML takes the control character U+0085 for a line break and folds it into a space: no control characters.
TEXT = st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1, max_size=12)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT


@given(st.dictionaries(TEXT, SCALARS | st.lists(SCALARS, max_size=3), max_size=5))
def test_whatever_is_dumped_reads_back_the_same(content: dict[str, Any]) -> None:
    assert parse_yaml(dump_yaml(content), "here") == content


@given(st.from_regex(r"[-+]?[0-9]{1,3}(\.[0-9]*)?[eE][-+]?[0-9]{1,2}", fullmatch=True))
def test_text_that_looks_like_a_number_comes_back_as_text(name: str) -> None:
    assert parse_yaml(dump_yaml({"name": name}), "here") == {"name": name}
