"""Running all competitors over seeds, and choosing every rival's best setting."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tests.benchmarks.replay.ours import Maker, Setting
from tests.benchmarks.replay.rivals import Competitor
from tests.benchmarks.replay.run import Run
from tests.benchmarks.replay.scores import LEVELS, Curve, is_complete, score, summarise
from tests.benchmarks.replay.simulator import Simulator
from tests.benchmarks.replay.table import CurveTable

GRID_POINTS = 200


def replay(table: CurveTable, maker: Maker, seed: int, workers: int, horizon: float) -> Run:
    """One run of one competitor. It ends early when the whole front was trained: nothing can change after that."""
    searcher, scheduler = maker(Setting(table, seed, workers))
    simulator = Simulator(
        table, searcher, scheduler, workers, horizon=horizon, enough=lambda run: is_complete(table, run)
    )
    return simulator.run()


def best_setting(variants: Mapping[str, Mapping[str, Any]]) -> str:
    """Least median compute to 95 %; where that is not reached, to 90 %; then the larger hypervolume at the end."""

    def merit(name: str) -> tuple[float, ...]:
        numbers = variants[name]
        medians = [numbers["train_seconds_to_reach"][f"{level:.0%}"][1] for level in (0.95, 0.90, 0.99)]
        return (*medians, -numbers["hypervolume_at_end"][1])

    return min(variants, key=merit)


def compare(
    table: CurveTable,
    competitors: Sequence[Competitor],
    *,
    seeds: int = 30,
    workers: int = 2,
    budget: float = 1.0,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """All numbers, ready for JSON but for infinities (a level that was not reached within the budget).

    ``budget`` is how long every run may go on, in units of the compute of training the whole table once.
    """
    horizon = budget * table.seconds / workers
    grid = np.linspace(0, budget * sum(r.train_seconds for row in table.rows for r in row.rungs), GRID_POINTS)
    results: dict[str, Any] = {}
    for competitor in competitors:
        if competitor.missing:
            results[competitor.name] = {"not_run": competitor.missing}
            continue
        variants = {}
        for label, maker in competitor.variants.items():
            runs = [replay(table, maker, seed, workers, horizon) for seed in range(seeds)]
            curves: list[Curve] = [score(table, run) for run in runs]
            variants[label] = summarise(runs, curves, grid)
            reached = variants[label]["train_seconds_to_reach"]["95%"]
            say(f"{competitor.name}, {label}: 95 % after {reached[1]:.0f} s of training")
        results[competitor.name] = {"best": best_setting(variants), "variants": variants}
    return {
        "table": {
            "size": table.size, "rungs": list(table.rungs), "rows": len(table.rows), "front": table.front,
            "reference": table.reference, "hypervolume": table.hypervolume, "seconds": table.seconds,
            "answers": table.answers,
            "interpolation_error": table.interpolation.loss_error if table.answers == "interpolated" else None,
        },
        "workers": workers,
        "seeds": seeds,
        "budget": budget,
        "grid_train_seconds": grid.tolist(),
        "competitors": results,
        "ratios": ratios(results),
    }  # fmt: skip


def best_numbers(results: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """By competitor that ran: the numbers of its best setting."""
    return {name: r["variants"][r["best"]] for name, r in results.items() if "variants" in r}


def ratios(results: Mapping[str, Any]) -> dict[str, Any]:
    """Median training seconds to each level: ours (the first), the best rival's, and their ratio.

    The target is at most 0.5 at 95 %. The ratio is None where ours or every rival did not reach the level.
    """
    numbers = best_numbers(results)
    own, *rivals = numbers
    found: dict[str, Any] = {}
    for level in (f"{level:.0%}" for level in LEVELS):
        reach = {name: numbers[name]["train_seconds_to_reach"][level][1] for name in numbers}
        rival = min(rivals, key=lambda name: reach[name], default=None)
        best = np.inf if rival is None else reach[rival]
        both = bool(np.isfinite(reach[own]) and np.isfinite(best))
        found[level] = {
            "ours": reach[own],
            "rival": rival if np.isfinite(best) else None,
            "best_rival": float(best),
            "ratio": reach[own] / best if both else None,
        }
    return found
