"""The comparison's results as a table on the screen, as JSON, and as a section of the README."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from analysis.files import write_atomically
from tests.benchmarks.replay.compare import best_numbers
from tests.benchmarks.replay.scores import LEVELS
from tests.benchmarks.tables import markdown, put_between

TARGET = 0.5  # of the best rival's compute at 95 %
COLUMNS = (
    "competitor",
    "best setting",
    *(f"minutes to {level:.0%}" for level in LEVELS),
    "front found, %",
    "completed of trials",
)


def minutes(seconds: Sequence[float]) -> str:
    """Median and band of training seconds, in minutes; a level that was not reached is a dash.

    >>> minutes([60.0, 90.0, float("inf")])
    '1.5 (1.0 to -)'
    """
    low, median, high = ("-" if math.isinf(value) else f"{value / 60:.1f}" for value in seconds)
    return "-" if median == low == "-" else f"{median} ({low} to {high})"


def percent(shares: Sequence[float]) -> str:
    """Median and band of a share.

    >>> percent([0.5, 0.625, 1.0])
    '62 (50 to 100)'
    """
    low, median, high = (f"{100 * value:.0f}" for value in shares)
    return f"{median} ({low} to {high})"


def table_rows(results: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """One row per competitor in its best setting, in the order of `COLUMNS`."""
    rows = []
    numbers = best_numbers(results["competitors"])
    for name, found in results["competitors"].items():
        if name not in numbers:
            rows.append((name, f"not run: {found['not_run']}", *[""] * (len(COLUMNS) - 2)))
            continue
        own = numbers[name]
        reached = [minutes(own["train_seconds_to_reach"][f"{level:.0%}"]) for level in LEVELS]
        trials = f"{own['completed'][1]:.0f} of {own['trials'][1]:.0f}"
        rows.append((name, found["best"], *reached, percent(own["found_at_end"]), trials))
    return rows


def verdict(results: Mapping[str, Any]) -> str:
    """The target in one sentence."""
    at_95 = results["ratios"]["95%"]
    if at_95["ratio"] is None:
        ours = (
            "ours did not"
            if math.isinf(at_95["ours"])
            else f"ours did after {at_95['ours'] / 60:.1f} minutes"
        )
        rival = at_95["rival"] or "no rival"
        return (
            f"Within the budget {rival} reached 95 % in the median run, {ours}: there is no ratio to state."
        )
    rival = f"the best rival's compute at 95 % ({at_95['rival']})"
    met = "met" if at_95["ratio"] <= TARGET else "missed"
    return f"Ours takes {at_95['ratio']:.2f} of {rival}; the target of at most {TARGET} is {met}."


def caption(results: Mapping[str, Any]) -> str:
    """What the numbers are."""
    table = results["table"]
    error, rungs = table["interpolation_error"], ", ".join(map(str, table["rungs"]))
    between = "" if error is None else f", others interpolated (leave-one-out error {error:.3f} nats)"
    return (
        f"{table['size']}: {table['rows']} recorded configs{between}; rungs at {rungs} examples, "
        f"{results['seeds']} seeds, {results['workers']} workers: minutes of training until a share of the table's "
        f"hypervolume is reached, and the share of its {len(table['front'])} front members found after "
        f"{results['budget']:g} x the whole table's compute. Median (10th to 90th percentile)."
    )


def print_table(results: Mapping[str, Any]) -> None:
    """Onto the screen."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    console.width = max(console.width, 120)
    shown = Table(*COLUMNS, caption=caption(results))
    for row in table_rows(results):
        shown.add_row(*row)
    console.print(shown)
    console.print(verdict(results), highlight=False)
    for name, own in best_numbers(results["competitors"]).items():
        if own["stranded"]:
            console.print(f"{name}: up to {own['stranded']} trials were left paused with nothing to run")


def _finite(value: Any) -> Any:
    """JSON has no infinity: null stands for a level that was not reached."""
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_json(results: Mapping[str, Any], path: Path) -> None:
    """All numbers; null where a level was not reached."""
    write_atomically(path, json.dumps(_finite(results), indent=1) + "\n")


def write_readme(results: Mapping[str, Any], path: Path) -> None:
    """Replace what stands between the two markers.

    Raises:
        InputError: the file does not hold both markers.
    """
    table = markdown(COLUMNS, table_rows(results))
    put_between(path, "replay", f"{table}\n\n{caption(results)}\n\n{verdict(results)}")
