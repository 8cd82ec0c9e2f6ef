"""The contenders' figures beside the bare loop's."""

from statistics import median
from typing import Any

from tests.benchmarks.tables import spread

TARGET = 0.95  # of the bare loop's tokens per second
SPEEDS = ("tokens_per_second", "tokens_per_cpu_second")
COLUMNS = ("contender", "tokens/s", "of the bare loop", "by CPU time", "peak memory, MiB", "of the bare loop",
           "largest loss difference")  # fmt: skip


def largest_difference(losses: list[float], others: list[float]) -> float | None:
    """The largest distance of two loss curves, step by step; None without one of them.

    >>> largest_difference([3.0, 2.5], [3.0, 2.0])
    0.5
    """
    if not losses or not others:
        return None
    return max(abs(one - other) for one, other in zip(losses, others, strict=True))


def table_rows(runs: dict[str, list[dict[str, Any]]]) -> list[list[str]]:
    """One line per contender, in the order of `COLUMNS`; ratios repeat by repeat, since those ran next to each other."""
    floor, rows = runs["bare"], []
    for name, found in runs.items():
        pairs = list(zip(found, floor, strict=False))
        difference = largest_difference(found[0]["losses"], floor[0]["losses"])
        rows.append(
            [
                name,
                spread([run["tokens_per_second"] for run in found], 0),
                *(spread([own[f] / ref[f] for own, ref in pairs]) for f in SPEEDS),
                f"{median(run['peak_bytes'] for run in found) / 2**20:.0f}",
                spread([own["peak_bytes"] / ref["peak_bytes"] for own, ref in pairs[:1]]),
                "-" if difference is None else f"{difference:.4f}",
            ]
        )  # fmt: skip
    return rows


def verdict(runs: dict[str, list[dict[str, Any]]]) -> str:
    """The target in a sentence."""
    ratio = median(
        own["tokens_per_cpu_second"] / ref["tokens_per_cpu_second"]
        for own, ref in zip(runs["ours"], runs["bare"], strict=False)
    )
    met = "met" if ratio >= TARGET else "missed"
    said = f"Ours trains {ratio:.2f} times as many tokens per CPU second as the bare loop"
    return f"{said}; the target of {TARGET} is {met}."
