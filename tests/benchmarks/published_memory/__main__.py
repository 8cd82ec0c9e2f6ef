"""``python -m tests.benchmarks.published_memory [--readme README.md]``: the table, printed or put into the README."""

import argparse
from pathlib import Path

from search.environment import quiet_libraries
from search.units import GIB
from tests.benchmarks.published_memory.predict import predicted_bytes
from tests.benchmarks.published_memory.rows import ROWS
from tests.benchmarks.tables import markdown, put_between


def table() -> str:
    """A Markdown table of all rows, figures in GiB, and under it what is unknown of them, numbered."""
    columns = ("run", "published", "predicted", "difference", "known?", "left open")
    lines = []
    gaps = list(dict.fromkeys(row.unknown for row in ROWS))
    for row in ROWS:
        predicted, note = predicted_bytes(row), gaps.index(row.unknown) + 1
        difference = f"{predicted / row.published_bytes - 1:+.1%}"
        sizes = (f"{row.published_bytes / GIB:.2f}", f"{predicted / GIB:.2f}")
        known = "yes" if row.known else "no"
        lines.append((f"[{row.name}]({row.source})", *sizes, difference, known, str(note)))
    notes = [f"{number}. Open: {gap}." for number, gap in enumerate(gaps, 1)]
    return "\n".join([markdown(columns, lines), "", *notes])


def main() -> None:
    """Print the table, or replace the part of a README between its marks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--readme", type=Path)
    arguments = parser.parse_args()
    quiet_libraries()
    made = table()
    if arguments.readme is None:
        print(made)
        return
    put_between(arguments.readme, "published-memory", made)


if __name__ == "__main__":
    main()
