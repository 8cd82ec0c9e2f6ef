"""The contenders' speeds, memory and shares of the card, and what LoRA saves."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from tests.benchmarks.tables import spread

COLUMNS = ("contender", "tokens/s", "of the bare loop", "share of the card's FLOP/s", "GFLOP per token",
           "peak memory, GiB", "predicted")  # fmt: skip
Runs = Mapping[str, Sequence[Mapping[str, Any]]]


def ratios(runs: Runs, own: str, other: str, what: str) -> list[float]:
    """One contender's figures over another's, repeat by repeat, since those ran next to each other."""
    pairs = zip(runs.get(own, ()), runs.get(other, ()), strict=False)
    return [mine[what] / theirs[what] for mine, theirs in pairs if mine[what] and theirs[what]]


def table_rows(
    runs: Runs, predicted: Mapping[str, int | None], card_flops_per_second: float
) -> list[list[str]]:
    """One line per contender, in the order of `COLUMNS`."""
    rows = []
    for name, found in runs.items():
        floor = "bare-full" if "full" in name else "bare"
        counted = [run for run in found if run["flops_per_token"]]
        shares = [
            run["tokens_per_second"] * run["flops_per_token"] / card_flops_per_second for run in counted
        ]
        peaks = [run["peak_bytes"] for run in found if run["peak_bytes"]]
        peak, guess = median(peaks) if peaks else None, predicted.get(name)
        rows.append(
            [
                name,
                spread([run["tokens_per_second"] for run in found], 0),
                spread(ratios(runs, name, floor, "tokens_per_second")),
                spread(shares),
                f"{counted[0]['flops_per_token'] / 1e9:.1f}" if counted else "-",
                "-" if peak is None else f"{peak / 2**30:.2f}",
                "-" if guess is None or peak is None else f"{guess / 2**30:.2f} ({guess / peak - 1:+.1%})",
            ]
        )
    return rows


def verdicts(runs: Runs) -> list[str]:
    """What LoRA takes of full fine-tuning's time and memory, with the same plugin and with PyTorch alone."""
    lines = []
    for lora, full, how in (
        ("lora", "full", "the profile's plugin"),
        ("lora-ddp", "full-ddp", "ddp"),
        ("bare", "bare-full", "the bare loop"),
    ):
        speeds = ratios(runs, lora, full, "tokens_per_second")
        memory = ratios(runs, lora, full, "peak_bytes")
        if speeds:
            saved = f", in {median(memory):.0%} of its memory" if memory else ""
            said = f"LoRA trains {spread(speeds)} times as many tokens per second as full fine-tuning"
            lines.append(f"With {how}, {said}{saved}.")
    return lines
