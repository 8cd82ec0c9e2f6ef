"""``python -m tests.benchmarks.published_memory [--readme README.md]``: the table, printed or put into the README."""

import argparse
from pathlib import Path

from search.environment import quiet_libraries
from search.units import GIB
from tests.benchmarks.published_memory.predict import predicted_bytes
from tests.benchmarks.published_memory.rows import ROWS

BEGIN, END = "<!-- published-memory:begin -->", "<!-- published-memory:end -->"


def table() -> str:
    """A Markdown table of all rows, figures in GiB, and under it what is unknown of them, numbered."""
    lines = [
        "| run | published | predicted | difference | known? | left open |",
        "| - | - | - | - | - | - |",
    ]
    gaps = list(dict.fromkeys(row.unknown for row in ROWS))
    for row in ROWS:
        predicted, note = predicted_bytes(row), gaps.index(row.unknown) + 1
        lines.append(
            f"| [{row.name}]({row.source}) | {row.published_bytes / GIB:.2f} | {predicted / GIB:.2f} | "
            f"{predicted / row.published_bytes - 1:+.1%} | {'yes' if row.known else 'no'} | {note} |"
        )
    notes = [f"{number}. Open: {gap}." for number, gap in enumerate(gaps, 1)]
    return "\n".join([*lines, "", *notes])


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
    before, rest = arguments.readme.read_text().split(BEGIN)
    _, after = rest.split(END)
    arguments.readme.write_text(f"{before}{BEGIN}\n{made}\n{END}{after}")


if __name__ == "__main__":
    main()
