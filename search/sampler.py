"""Optuna behind Ray Tune's Searcher: hands out the trials of a sweep and tells its study how they go."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from pydantic import ValidationError
from ray.tune.search import Searcher

from search.base_duty import BaseDuty
from search.points import continuous_dimensions, shuffled_points
from search.space import SearchSpace, Value
from search.stateless_searcher import StatelessSearcher
from search.study import OBJECTIVES, TrialEntry, fail, forget_unfinished, open_study
from trainables.settings import TrialConfig, TrialSpec

__all__ = ["OptunaSearcher", "forget_unfinished", "open_study"]

# How often a sampler may repeat itself before a new config is taken from those that are left of a finite space.
MAX_REPEATS = 5
# How many draws from an endless space may be refused in a row. Where 2 % of it fits the memory budget, 200 random
# draws miss it with a chance of 0.98^200 = 2 %, and the sampler learns from every refusal.
MAX_DRAWS = 200
# Share over the budget of a config that ran out of memory though it was predicted to fit: the least that the
# allocator's rounding and fragmentation make of it (measured for 7-8B: 5-9 % above what is allocated).
OUT_OF_MEMORY_EXCESS = 0.05


class OptunaSearcher(StatelessSearcher):
    """Hands out trial specs: first those given (baseline, resumed trials), then points that Optuna samples.

    A given trial, or one that goes on past this searcher, is told to its own entry in the study, which is found by
    its trial id. No config is handed out twice.

    Args:
        study: from `open_study`.
        space: the search space.
        make_spec: a trial's spec from its number and config.
        first: specs to run before anything is sampled.
        budget: how many configs to sample.
        seen: configs that already ran, which are not run again.
        next_number: number of the next new trial.
        admit: records a config that must not be launched (over the memory budget) and says so by False.
        predict: a trial's predicted peak bytes, and
        memory_budget: in bytes; together they tell the sampler by how much a config is over budget.
        base_duty: decides which trial evaluates the untouched model; None leaves that to the specs.
    """

    def __init__(
        self,
        study: Any,
        space: SearchSpace,
        make_spec: Callable[[int, TrialConfig], TrialSpec],
        *,
        first: Sequence[TrialSpec] = (),
        budget: int,
        seen: Sequence[TrialConfig] = (),
        next_number: int = 1,
        admit: Callable[[TrialSpec], bool] = lambda spec: True,
        predict: Callable[[TrialSpec], float] | None = None,
        memory_budget: float | None = None,
        base_duty: BaseDuty | None = None,
    ) -> None:
        super().__init__()
        self._base_duty = base_duty
        self._study, self._space, self._make_spec, self._admit = study, space, make_spec, admit
        self._first, self._budget, self._next = list(first), budget, next_number
        self._predict, self._memory_budget = predict, memory_budget
        self._seen = set(map(_key, seen))
        self._under_way: dict[str, TrialEntry] = {}
        self._specs: dict[str, TrialSpec] = {}
        self._unvisited: Iterator[dict[str, Value]] | None = None
        self.used_up = False

    def suggest(self, trial_id: str) -> Any:
        """The next trial's config, or FINISHED when the budget or the space is used up."""
        if self._first:
            spec = self._first.pop(0)
            self._adopt(trial_id, spec.trial_id)
            return self._hand_out(trial_id, spec)
        if self._budget <= 0 or self.used_up:
            return Searcher.FINISHED
        drawn = self._draw()
        if drawn is None:
            self.used_up = True
            return Searcher.FINISHED
        self._under_way[trial_id], spec = drawn
        self._budget -= 1
        return self._hand_out(trial_id, spec)

    @property
    def why_used_up(self) -> str:
        """What it means that no config turned up."""
        if continuous_dimensions(self._space):
            return f"of {MAX_DRAWS} configs in a row none was new, valid and within the memory budget"
        return "the search space is used up: every config in it was tried or refused"

    def _hand_out(self, trial_id: str, spec: TrialSpec) -> dict[str, Any]:
        if self._base_duty is not None:
            spec = self._base_duty.assign(spec)
        self._specs[trial_id] = spec
        return {"spec": spec.model_dump(mode="json")}

    def _draw(self) -> tuple[TrialEntry, TrialSpec] | None:
        """A config that is new, valid and within the memory budget; None when none turns up."""
        draws = repeats = 0
        endless = bool(continuous_dimensions(self._space))
        while draws < MAX_DRAWS if endless else repeats < MAX_REPEATS or self._enqueue_unvisited():
            draws += 1
            asked = self._study.ask()
            config = self._new_config(self._space.suggest(asked))
            if config is None:
                repeats += 1
                fail(self._study, asked)
                continue
            spec = self._make_spec(self._next, config)
            self._next += 1
            self._seen.add(_key(config))
            entry = TrialEntry.create(self._study, asked, spec.trial_id)
            if self._admit(spec):
                return entry, spec
            self._over_budget(entry, spec, least_excess=0.0)
        return None

    def _new_config(self, point: Mapping[str, Any]) -> TrialConfig | None:
        """The config at a point; None when it is invalid or has been handed out."""
        try:
            config = self._space.to_config(point)
        except ValidationError:
            return None
        return None if _key(config) in self._seen else config

    def _enqueue_unvisited(self) -> bool:
        """Make a new point of a finite space the study's next; False when there is none left."""
        if self._unvisited is None:
            self._unvisited = shuffled_points(self._space, self._next)
        point = next((point for point in self._unvisited if self._new_config(point)), None)
        if point is not None:
            self._study.enqueue_trial(self._space.restrict(point))
        return point is not None

    def _adopt(self, trial_id: str, own_id: str | None) -> TrialEntry | None:
        """Take up a trial that was not drawn here, if the study knows it."""
        entry = None if own_id is None else TrialEntry.find(self._study, own_id)
        if entry is not None:
            self._under_way[trial_id] = entry
        return entry

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Note what a trial reports at a rung, from which it goes on or is paused."""
        entry = self._under_way.get(trial_id) or self._adopt(trial_id, result.get("trial"))
        if entry is not None and "eval_loss" in result and "examples_seen" in result:
            entry.report(
                int(result["examples_seen"]), float(result["eval_loss"]), result.get("peak_memory_bytes")
            )

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Tell the study how a trial ended; one that ends while it is paused has no result, but its reports."""
        result = result or {}
        self.on_trial_result(trial_id, result)
        entry, spec = self._under_way.pop(trial_id, None), self._specs.pop(trial_id, None)
        if spec is not None and self._base_duty is not None:
            self._base_duty.ended(spec.trial_id)
        if entry is None:
            return
        values = [result.get(name) for name in OBJECTIVES]
        if result.get("infeasible"):
            self._over_budget(entry, spec, least_excess=OUT_OF_MEMORY_EXCESS)
        elif error or "failure" in result or (None in values and not entry.rungs):
            entry.fail()
        elif result.get("finished") and None not in values:
            entry.finish(values)
        else:
            entry.stop()

    def _over_budget(self, entry: TrialEntry, spec: TrialSpec | None, least_excess: float) -> None:
        """Tell the study of a config that needs too much memory, and how much too much."""
        memory = entry.memory_bytes
        if memory is None and self._predict is not None and spec is not None:
            memory = self._predict(spec)
        excess = memory / self._memory_budget - 1 if memory and self._memory_budget else 0.0
        entry.is_over_budget(memory, max(excess, least_excess))


def _key(config: TrialConfig) -> str:
    return config.model_dump_json()
