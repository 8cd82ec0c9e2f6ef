"""Reading files row by row: JSON lines, JSON arrays, CSV and Parquet.

Every reader yields ``("file:line", row)``; a row that cannot be parsed comes as a `RowError` in its place, so
that reading goes on and all bad rows are counted.
"""

import codecs
import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from search.errors import InputError
from trainables.examples import RowError, check_columns, is_unicode, looks_like_message, used_columns
from trainables.settings import DataSettings

Rows = Iterator[tuple[str, Any]]

# The csv module stops at 128 KiB unless told otherwise; this is the largest value that every platform takes.
_LONGEST_FIELD = 2**31 - 1


def read_json_lines(path: Path, settings: DataSettings) -> Rows:
    """One JSON value per line; blank lines are skipped."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
            if line.strip():
                yield f"{path}:{number}", _parse(line)


def read_json(path: Path, settings: DataSettings) -> Rows:
    """One big array of rows, or else one JSON value per line."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        document = json.loads(text)
    except json.JSONDecodeError as error:
        if _opens_array(text):
            yield f"{path}:{error.lineno}", RowError(f"not JSON ({error.msg} at column {error.colno})")
        else:
            yield from read_json_lines(path, settings)
    except (ValueError, RecursionError):  # not UTF-8, or as in `_parse`
        yield from read_json_lines(path, settings)  # which says the line
    else:
        if isinstance(document, list) and not (document and looks_like_message(document[0])):
            yield from ((f"{path}:{line}", row) for line, row in _array_elements(text))
        else:
            yield f"{path}:1", document


def read_csv(path: Path, settings: DataSettings) -> Rows:
    """Comma-separated values under a header; a row of several lines is named by its first one."""
    csv.field_size_limit(_LONGEST_FIELD)
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.reader(file, strict=True)
        header = _csv_header(reader, path, settings)
        while True:
            where = f"{path}:{reader.line_num + 1}"
            try:
                fields = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield where, RowError(f"not CSV ({error})")
                continue
            if len(fields) == len(header):
                yield where, dict(zip(header, fields, strict=True))
            elif fields:  # an empty list is a blank line
                yield where, RowError(f"{len(fields)} fields where the header has {len(header)}")


def read_parquet(path: Path, settings: DataSettings) -> Rows:
    """The rows of a Parquet file, which has no lines: ``file:row N`` counts from 1."""
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
        names = file.schema_arrow.names
        check_columns(names, settings)
        batches = file.iter_batches(columns=used_columns(names, settings))
        for number, row in enumerate((row for batch in batches for row in batch.to_pylist()), 1):
            yield f"{path}:row {number}", row
    except RowError as error:
        raise InputError(f"{path}: {error}") from None
    except pyarrow.ArrowException as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"{path} is not a readable Parquet file: {reason}") from error


READERS = {".jsonl": read_json_lines, ".json": read_json, ".csv": read_csv, ".parquet": read_parquet}


def _parse(line: bytes) -> Any:
    try:
        return json.loads(line.decode())
    except UnicodeDecodeError:
        return RowError("not valid UTF-8 text")
    except json.JSONDecodeError as error:
        return RowError(f"not JSON ({error.msg} at column {error.colno})")
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, brackets in brackets
        return RowError(f"not readable JSON ({error})")


def _opens_array(text: str) -> bool:
    """Whether a broken document was meant as one array, since its first line is only the beginning of one."""
    first_line = text.lstrip().partition("\n")[0]
    return first_line.startswith("[") and isinstance(_parse(first_line.encode()), RowError)


def _array_elements(text: str) -> Iterator[tuple[int, Any]]:
    """Line number and value of every element of a well-formed JSON array."""
    decoder = json.JSONDecoder()
    position, line = text.index("[") + 1, 1 + text.count("\n", 0, text.index("["))
    while True:
        start = position
        while text[start] in " \t\r\n,":
            start += 1
        if text[start] == "]":
            return
        line += text.count("\n", position, start)
        element, position = decoder.raw_decode(text, start)
        yield line, element
        line += text.count("\n", start, position)


def _csv_header(reader: Iterator[list[str]], path: Path, settings: DataSettings) -> list[str]:
    try:
        header = [name.strip() for name in next(reader, [])]
        if not is_unicode("".join(header)):
            raise RowError("not valid UTF-8 text")
        check_columns(header, settings)
        if len(set(header)) < len(header):
            raise RowError(f"a column name occurs twice: {', '.join(map(repr, header))}")
    except (csv.Error, RowError) as error:
        raise InputError(f"{path}:1: {error}") from None
    return header
