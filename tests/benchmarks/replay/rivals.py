"""The competitors: each a name, its settings to choose from, and how to make searcher and scheduler for one run."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from search.space import Choices, Range, SearchSpace
from tests.benchmarks.replay.ours import Maker, Setting, ours, sweep_config
from tests.benchmarks.replay.table import CurveTable

OBJECTIVES = ["eval_loss", "peak_memory_bytes"]


@dataclass(frozen=True)
class Competitor:
    """``variants`` maps a setting in words to its maker; the best of them counts. ``missing`` says why it cannot run."""

    name: str
    variants: Mapping[str, Maker]
    missing: str | None = None


def distributions(space: SearchSpace) -> dict[str, Any]:
    """The space as Optuna distributions, dimensions with one value left out."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    found: dict[str, Any] = {}
    for name, dimension in space.dimensions.items():
        if isinstance(dimension, Choices) and dimension.size() > 1:
            found[name] = CategoricalDistribution(dimension.values)
        elif isinstance(dimension, Range) and dimension.integer:
            low, high, step = int(dimension.low), int(dimension.high), int(dimension.step or 1)
            found[name] = IntDistribution(low, high, log=dimension.log, step=step)
        elif isinstance(dimension, Range):
            found[name] = FloatDistribution(dimension.low, dimension.high, dimension.log, dimension.step)
    return found


def fixed_settings(space: SearchSpace) -> dict[str, Any]:
    """The dimensions that have one value."""
    return {n: d.values[0] for n, d in space.dimensions.items() if isinstance(d, Choices) and d.size() == 1}


def ray_optuna(table: CurveTable, sampler: Any, seed: int | None = None) -> Any:
    """Ray's own OptunaSearch with both objectives."""
    import warnings

    import optuna
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space = sweep_config(table).search_space
    fixed = fixed_settings(space)

    class WithFixedSettings(OptunaSearch):  # type: ignore[misc]
        def suggest(self, trial_id: str) -> Any:
            return super().suggest(trial_id) | fixed

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return WithFixedSettings(
            space=distributions(space), metric=OBJECTIVES, mode=["min", "min"], sampler=sampler, seed=seed
        )


def ray_asha(table: CurveTable, eta: int) -> Any:
    """Ray's own ASHA on the loss, as its documentation sets it up."""
    from ray.tune.schedulers import ASHAScheduler

    return ASHAScheduler(
        time_attr="examples_seen", metric="eval_loss", mode="min", max_t=table.rungs[-1],
        grace_period=table.rungs[0], reduction_factor=eta,
    )  # fmt: skip


def optuna_asha(eta: int) -> Maker:
    """OptunaSearch (TPE) with ASHA."""
    return lambda run: (ray_optuna(run.table, None, run.seed), ray_asha(run.table, eta))


def optuna_only(run: Setting) -> tuple[Any, Any]:
    """OptunaSearch (TPE), every trial to the full resource."""
    from ray.tune.schedulers import FIFOScheduler

    return ray_optuna(run.table, None, run.seed), FIFOScheduler()


def random_search(run: Setting) -> tuple[Any, Any]:
    """Random configs to the full resource."""
    import optuna
    from ray.tune.schedulers import FIFOScheduler

    return ray_optuna(run.table, optuna.samplers.RandomSampler(seed=run.seed)), FIFOScheduler()


def nsga2(population: int) -> Maker:
    """Optuna's NSGA-II to the full resource."""

    def make(run: Setting) -> tuple[Any, Any]:
        import optuna
        from ray.tune.schedulers import FIFOScheduler

        sampler = optuna.samplers.NSGAIISampler(seed=run.seed, population_size=population)
        return ray_optuna(run.table, sampler), FIFOScheduler()

    return make


def all_competitors(our_overrides: tuple[str, ...] = ()) -> list[Competitor]:
    """Ours first. Rivals with a setting that matters are tried with several values of it."""
    from tests.benchmarks.replay.syne import moasha, why_missing

    etas = (2, 3, 4)
    as_shipped = {f"eta {eta}": moasha(eta) for eta in etas}
    repaired = {f"eta {eta}, ranking repaired": moasha(eta, repair=True) for eta in etas}
    label = ", ".join(our_overrides) or "as shipped"
    return [
        Competitor("lorafront", {label: ours(our_overrides)}),
        Competitor("OptunaSearch + ASHA on loss", {f"eta {eta}": optuna_asha(eta) for eta in etas}),
        Competitor("OptunaSearch", {"no scheduler": optuna_only}),
        Competitor("random search", {"no scheduler": random_search}),
        Competitor("NSGA-II", {f"population {size}": nsga2(size) for size in (10, 20, 50)}),
        Competitor("Syne Tune MOASHA", {**as_shipped, **repaired}, why_missing()),
    ]
