"""Memory sizes and durations: bytes and seconds inside, GiB and minutes for people."""

import math
import re

from search.errors import InputError

GIB = 2**30

# IEC units are powers of 1024; SI ones powers of 1000 (IEC 80000-13). A bare number is bytes.
_BYTES_PER_UNIT = {
    "": 1, "b": 1,
    "kib": 2**10, "mib": 2**20, "gib": GIB, "tib": 2**40,
    "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12,
}  # fmt: skip
_SECONDS_PER_UNIT = {"": 1, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}
_NUMBER_WITH_UNIT = re.compile(r"([0-9]*\.?[0-9]+)\s*([a-z]*)")
_DURATION_PART = re.compile(r"([0-9]*\.?[0-9]+)\s*(min|s|m|h|d)\s*")


def parse_memory(text: str | int | float) -> int:
    """Bytes of a size such as ``24GiB``, ``24GB`` or ``25769803776``.

    Raises:
        InputError: not a positive size in a known unit.

    >>> parse_memory("1.5KiB")
    1536
    """
    match = _NUMBER_WITH_UNIT.fullmatch(str(text).strip().lower())
    size = float(match[1]) * _BYTES_PER_UNIT.get(match[2], 0) if match else 0.0
    if not 0.5 < size < math.inf:  # also less than a byte, and an unknown unit
        raise InputError(f"memory size {text!r} is not a positive number with a unit, such as 24GiB or 500MB")
    return round(size)


def format_memory(size_bytes: float) -> str:
    """A size for people, in GiB from 1 GiB on and in MiB below.

    >>> format_memory(3 * 2**29)
    '1.50 GiB'
    """
    if size_bytes >= GIB:
        return f"{size_bytes / GIB:.2f} GiB"
    return f"{size_bytes / 2**20:.0f} MiB"


def counted(number: int, noun: str) -> str:
    """A number with its noun.

    >>> counted(3, "new seed"), counted(1, "trial")
    ('3 new seeds', '1 trial')
    """
    return f"{number} {noun}{'' if number == 1 else 's'}"


def parse_duration(text: str | int | float) -> float:
    """Seconds of a duration such as ``90``, ``90s``, ``30m`` or ``1h30m``.

    Raises:
        InputError: not a positive duration in a known unit.

    >>> parse_duration("1h30m")
    5400.0
    """
    cleaned = str(text).strip().lower()
    if re.fullmatch(r"[0-9]*\.?[0-9]+", cleaned):
        seconds = float(cleaned)
    elif cleaned and not _DURATION_PART.sub("", cleaned):
        seconds = sum(float(n) * _SECONDS_PER_UNIT[u] for n, u in _DURATION_PART.findall(cleaned))
    else:
        seconds = 0.0
    if not 0 < seconds < math.inf:
        raise InputError(f"duration {text!r} is not a positive time such as 45s, 30m or 1h30m")
    return seconds


def format_duration(seconds: float) -> str:
    """A duration for people.

    >>> format_duration(3725)
    '1h02m'
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
