"""Memory sizes and durations: what people write, and what is refused in one line."""

import contextlib
import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.errors import InputError
from search.units import GIB, format_duration, format_memory, parse_duration, parse_memory


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("24GiB", 24 * 2**30),
        ("24 gib", 24 * 2**30),
        ("  24GIB ", 24 * 2**30),
        ("24GB", 24 * 10**9),
        ("500MiB", 500 * 2**20),
        ("1.5KiB", 1536),
        (".5KiB", 512),
        ("1TB", 10**12),
        ("1TiB", 2**40),
        ("1000B", 1000),
        ("25769803776", 25769803776),
        (25769803776, 25769803776),
        (1024.0, 1024),
    ],
)
def test_memory_sizes_are_read_as_bytes(text: str | int | float, size_bytes: int) -> None:
    assert parse_memory(text) == size_bytes
    assert isinstance(parse_memory(text), int)


NO_SIZES = ["", " ", "GiB", "0", "0GiB", "-1GiB", "24 G", "24gigabytes", "24GiB free", "1,5GiB", "24GiBGiB"]
NO_NUMBERS = [
    "nan",
    "inf",
    "0.1B",
    "1e3",
    "9" * 400 + "GiB",
    "٢٤GiB",
    "24\nGiB\nx",
    float("nan"),
    0,
    -5,
    True,
]


@pytest.mark.parametrize("text", [*NO_SIZES, *NO_NUMBERS, None, [24]])
def test_anything_else_is_one_clear_line(text: object) -> None:
    with pytest.raises(InputError, match=r"^memory size .* is not a positive number with a unit") as caught:
        parse_memory(text)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        (90, 90),
        (0.5, 0.5),
        ("45s", 45),
        ("30m", 1800),
        ("30min", 1800),
        ("30 min", 1800),
        ("1h30m", 5400),
        ("1h 30m 5s", 5405),
        ("1.5H", 5400),
        ("2d", 172800),
    ],
)
def test_durations_are_read_as_seconds(text: str | int | float, seconds: float) -> None:
    assert parse_duration(text) == seconds


NO_DURATIONS = [
    "",
    " ",
    "0",
    "0s",
    "-5m",
    "5 5m",
    "1h30",
    "30 minutes",
    "h",
    "1:30",
    "5y",
    "m5",
    "nan",
    "inf",
]


@pytest.mark.parametrize("text", [*NO_DURATIONS, "9" * 400, None, True, 0, -1, [5]])
def test_malformed_durations_are_one_clear_line(text: object) -> None:
    with pytest.raises(InputError, match=r"^duration .* is not a positive time such as") as caught:
        parse_duration(text)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [(GIB, "1.00 GiB"), (3 * 2**29, "1.50 GiB"), (2**29, "512 MiB"), (0, "0 MiB")],
)
def test_format_memory(size_bytes: int, text: str) -> None:
    assert format_memory(size_bytes) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (59.4, "59s"),
        (59.6, "1m00s"),
        (61, "1m01s"),
        (3599, "59m59s"),
        (3600, "1h00m"),
        (3725, "1h02m"),
    ],
)
def test_format_duration(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@given(st.integers(min_value=1, max_value=2**53))
def test_a_number_of_bytes_survives_being_written_down(size_bytes: int) -> None:
    assert parse_memory(str(size_bytes)) == size_bytes


@given(st.integers(min_value=GIB, max_value=2**50))
def test_a_formatted_memory_size_reads_back_within_its_rounding(size_bytes: int) -> None:
    assert parse_memory(format_memory(size_bytes)) == pytest.approx(size_bytes, abs=0.005 * GIB)


@pytest.mark.parametrize("parse", [parse_memory, parse_duration])
@given(text=st.text(max_size=20) | st.from_regex(r"[0-9.]{1,6} ?[a-zA-Z]{0,3}", fullmatch=True))
def test_any_text_gives_a_positive_number_or_an_input_error(parse: Callable[[str], float], text: str) -> None:
    with contextlib.suppress(InputError):
        assert 0 < parse(text) < math.inf
