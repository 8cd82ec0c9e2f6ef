"""Tables of measurements: ratios with their spread, Markdown, and the part of a README between two markers."""

from collections.abc import Sequence
from pathlib import Path
from statistics import median

from analysis.files import write_atomically
from search.errors import InputError


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Median and range; a single value stands alone, none at all is a dash.

    >>> spread([4.0, 5.0, 7.5])
    '5.00 (4.00 to 7.50)'
    """
    if not values:
        return "-"
    middle = f"{median(values):.{digits}f}"
    if len(values) == 1:
        return middle
    return f"{middle} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [" | ".join(row) for row in (columns, ["-"] * len(columns), *rows)]
    return "\n".join(f"| {line} |" for line in lines)


def show(columns: Sequence[str], rows: Sequence[Sequence[str]], caption: str = "") -> None:
    """The table on the screen, at least 120 columns wide."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    console.width = max(console.width, 120)
    shown = Table(*columns, caption=caption)
    for row in rows:
        shown.add_row(*row)
    console.print(shown)


def put_between(path: Path, name: str, section: str) -> None:
    """Replace what stands between a file's ``<!-- NAME:begin -->`` and ``<!-- NAME:end -->``.

    Raises:
        InputError: the file does not hold both markers, once each.
    """
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    try:
        before, rest = path.read_text(encoding="utf-8").split(begin)
        _, after = rest.split(end)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: must hold one {begin} and, after it, one {end}") from error
    write_atomically(path, f"{before}{begin}\n{section}\n{end}{after}")
