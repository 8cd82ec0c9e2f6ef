"""The comparison as tables: figures per side, seconds per phase, and how many times ours is as fast, run by run."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from tests.benchmarks.rivals.measure import SIDES, Side
from tests.benchmarks.rivals.phases import PHASES
from tests.benchmarks.tables import markdown, show, spread

GIB = 2**30
Runs = Mapping[str, Mapping[int, Mapping[str, Any]]]  # side -> seed -> figures
FIGURES = (
    "side", "makespan, s", "tokens/s of training, per worker", "tokens/s of makespan", "examples trained", "completed",
    "peak memory, GiB (PSS)", "best loss",
)  # fmt: skip
# What ours is divided by: how often it is as fast, or how much less memory it takes. The second side of ours searches
# as the rivals do, so what it gains is speed alone.
RATIOS = (
    ("makespan", "makespan_seconds", "ours"),
    ("makespan, same search", "makespan_seconds", "ours-asha-tpe"),
    ("time per trained token", "seconds_per_token", "ours"),
    ("time per trained token, same search", "seconds_per_token", "ours-asha-tpe"),
    ("training time per token", "train_seconds_per_token", "ours"),
    ("peak memory", "peak_pss_bytes", "ours"),
)


def values(runs: Runs, side: str, name: str) -> list[float]:
    """A figure of all runs of a side that have it."""
    return [run[name] for run in runs.get(side, {}).values() if run.get(name) is not None]


def ratios(runs: Runs, side: str, name: str = "makespan_seconds", ours: str = "ours") -> list[float]:
    """Theirs by ours, seed by seed: runs of one round stand next to each other in time.

    >>> ratios({"ours": {0: {"s": 2.0}, 1: {"s": 4.0}}, "them": {0: {"s": 8.0}}}, "them", "s")
    [4.0]
    """
    both = sorted(set(runs.get(side, {})) & set(runs.get(ours, {})))
    pairs = [(runs[side][seed].get(name), runs[ours][seed].get(name)) for seed in both]
    return [theirs / own for theirs, own in pairs if theirs is not None and own]


def figure_row(runs: Runs, side: Side) -> list[str]:
    """One line of the first table, in the order of `FIGURES`."""
    memory = [value / GIB for value in values(runs, side.name, "peak_pss_bytes")]
    return [
        side.name,
        spread(values(runs, side.name, "makespan_seconds"), 0),
        spread(values(runs, side.name, "tokens_per_train_second"), 0),
        spread(values(runs, side.name, "tokens_per_makespan_second"), 0),
        spread(values(runs, side.name, "examples"), 0),
        spread(values(runs, side.name, "completed"), 0),
        spread(memory, 1),
        spread(values(runs, side.name, "best_loss"), 3),
    ]


def ratio_rows(runs: Runs) -> list[list[str]]:
    """One line per rival: its figures by ours, in the order of `RATIOS`, and the target for the first."""
    rivals = [side for side in sides_run(runs) if side.module is not None]
    return [
        [
            side.name,
            *(spread(ratios(runs, side.name, figure, ours), 1) for _, figure, ours in RATIOS),
            "" if side.target is None else f"{side.target:g}",
        ]
        for side in rivals
    ]


def phase_row(runs: Runs, side: Side) -> list[str]:
    """Median seconds per phase."""
    found = [run["phases"] for run in runs.get(side.name, {}).values()]
    return [side.name, *(f"{median(phases[name] for phases in found):.1f}" for name in PHASES)]


def sides_run(runs: Runs) -> list[Side]:
    """The sides that have a run, in their order."""
    return [side for side in SIDES if runs.get(side.name)]


def verdicts(runs: Runs) -> list[str]:
    """Each target in a sentence."""
    said = []
    for side in sides_run(runs):
        found = ratios(runs, side.name)
        if side.target is not None and found:
            met = "met" if median(found) >= side.target else "missed"
            said.append(
                f"Against {side.title}: {spread(found, 1)} times as fast; the target of {side.target:g} is {met}."
            )
    return said


def caption(settings: Mapping[str, Any], runs: Runs) -> str:
    """What was compared."""
    rounds = max((len(found) for found in runs.values()), default=0)
    rungs = ", ".join(map(str, settings["rungs"]))
    return (
        f"{settings['size']}, {settings['trials']} configs of the default space, rungs at {rungs} examples, "
        f"{settings['workers']} workers of one thread; {rounds} rounds, all sides in each in turn, a seed per round: "
        "median (least to most). From the command's start to its end; the rivals get tokens, ours reads and tokenises "
        "within its time. Memory is the largest sum of proportional set sizes of all processes, sampled once a second. "
        "Best losses are all taken the same way, ours."
    )


def phase_caption() -> str:
    """What the phases are."""
    return (
        "Seconds per phase, averaged over the workers, so that they add up to the makespan: start (until the first "
        "trial), load (base model, adapter, Trainer; ours: the worker too), report (saving, waiting for Tune), between "
        "(new processes, imports, workers with nothing to do), stop (after the last trial; ours: figures, MLflow)."
    )


def tables(settings: Mapping[str, Any], runs: Runs) -> list[tuple[Sequence[str], list[list[str]], str]]:
    """Columns, rows and caption of each table."""
    sides = sides_run(runs)
    columns = ("rival by ours", *(title for title, _, _ in RATIOS), "target for the makespan")
    by_ours = (
        "Rival by ours, round by round; above 1 ours is better. Same search: ours with ASHA and TPE too."
    )
    return [
        (FIGURES, [figure_row(runs, side) for side in sides], caption(settings, runs)),
        (columns, ratio_rows(runs), by_ours),
        (("side", *PHASES), [phase_row(runs, side) for side in sides], phase_caption()),
    ]


def section(settings: Mapping[str, Any], runs: Runs) -> str:
    """Everything in Markdown."""
    legend = "\n".join(f"- {side.name}: {side.title}" for side in sides_run(runs))
    parts = [f"{markdown(columns, rows)}\n\n{text}" for columns, rows, text in tables(settings, runs)]
    return "\n\n".join([legend, *parts, "\n".join(verdicts(runs))])


def print_tables(settings: Mapping[str, Any], runs: Runs, errors: Sequence[Mapping[str, Any]]) -> None:
    """Everything on the screen."""
    for columns, rows, text in tables(settings, runs):
        show(columns, rows, text)
    for line in verdicts(runs):
        print(line)
    for error in errors:
        print(f"{error['side']}, seed {error['seed']}: failed ({error['error']})\n{error['tail']}")
