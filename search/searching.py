"""Putting together what decides in a sweep: study, sampler, scheduler and stopping rules, as Ray Tune wants them."""

from typing import Any

from ray import tune

from analysis.front import sweep_facts
from analysis.records import RunPaths
from search.base_duty import BaseDuty
from search.history import History, settle, trial_config
from search.journal import Journal
from search.memory_budget import MemoryBudget
from search.pareto_asha import ParetoAsha, trial_name
from search.plan import SweepPlan
from search.sampler import OptunaSearcher, forget_unfinished, open_study
from search.scheduler import make_scheduler
from search.slots import LimitedSearcher, SlotSearcher
from search.stopping import Stagnation, UntilStagnation
from search.study import TrialEntry, enter_adopted, never_launched
from search.warm_start import exact_point
from trainables.settings import TrialSpec


class Searching:
    """Sampler and scheduler of one launch, with what earlier launches found."""

    def __init__(self, plan: SweepPlan, journal: Journal, paths: RunPaths) -> None:
        self._plan, self._config, self._journal = plan, plan.config, journal
        self._study = open_study(plan.config, str(paths.optuna_db.resolve()))
        for trial in settle(journal, plan.config.rungs[-1]):
            entry = TrialEntry.find(self._study, trial.trial_id)
            if entry is not None:
                entry.finish([trial.eval_loss, trial.peak_memory_bytes])
        self._history = History(plan, journal, paths)
        self._budget = MemoryBudget(plan, journal)
        self._first = [*self._history.first_specs(), *self._never_launched()]
        self._sampler = self._make_sampler()
        self._stagnation = Stagnation(self._config.stagnation, lambda: journal.front(finished=False))
        journal.listeners.append(self._stagnation.listen)
        config, history = self._config, self._history
        self.scheduler = make_scheduler(
            config.scheduler,
            config.rungs,
            config.reduction_factor,
            history.reports(),
            plan.machine.workers,
            history.base(),
        )

    @property
    def why_over(self) -> str | None:
        """Why no further config is sampled, though there was budget left; None if that is not so."""
        if self._sampler.used_up:
            return self._sampler.why_used_up
        return self._stagnation.describe() if self._stagnation.has_come else None

    def is_paused(self, trial: Any) -> bool:
        """Whether the scheduler has paused a Tune trial."""
        return isinstance(self.scheduler, ParetoAsha) and self.scheduler.is_paused(trial)

    def tune_config(self) -> tune.TuneConfig:
        """All of it for a `Tuner`."""
        searcher: Any = UntilStagnation(self._sampler, self._stagnation)
        if isinstance(self.scheduler, ParetoAsha):
            searcher = SlotSearcher(searcher, self.scheduler, self._history.resumed)
        else:
            searcher = LimitedSearcher(searcher, self._plan.machine.workers)
        return tune.TuneConfig(
            search_alg=searcher,
            scheduler=self.scheduler,
            # The searcher ends the sweep; this is only a limit above what can come, each known trial revived once.
            num_samples=len(self._first) + self._config.trials + len(self._history.lora_trials),
            time_budget_s=self._config.time_budget,
            reuse_actors=True,
            trial_name_creator=trial_name,
            trial_dirname_creator=trial_name,
        )

    def close(self) -> None:
        """The sweep is over: nothing goes on any more."""
        forget_unfinished(self._study)

    def _never_launched(self) -> list[TrialSpec]:
        """What an earlier launch asked the sampler for, and was killed before it began."""
        launched = [trial.trial_id for trial in self._history.lora_trials]
        space = self._config.search_space
        asked = never_launched(self._study, launched)
        return [self._plan.spec(trial_id, space.config_at(params)) for trial_id, params in asked.items()]

    def _make_sampler(self) -> OptunaSearcher:
        config, history, study = self._config, self._history, self._study
        sampled = [spec for spec in self._first if spec.kind == "lora"]
        going_on = [trial.trial_id for trial in history.pausing] + [spec.trial_id for spec in sampled]
        forget_unfinished(study, keep=going_on)
        self._begin_study()
        new = len(sampled) - len(history.unfinished)
        return OptunaSearcher(
            study,
            config.search_space,
            self._plan.numbered_spec,
            first=self._first,
            budget=history.trials_left(config.trials) - new,
            seen=[
                *(trial_config(trial) for trial in history.lora_trials),
                *(spec.config for spec in sampled),
            ],
            next_number=history.next_number + new,
            admit=self._budget.admit,
            predict=self._budget.needed_bytes,
            memory_budget=config.memory_budget,
            base_duty=BaseDuty(lambda: self._journal.base is not None),
        )

    def _begin_study(self) -> None:
        """Enter the trials that were taken over, and what is to be tried first."""
        study, space = self._study, self._config.search_space
        adopted = [trial for trial in self._history.lora_trials if trial.adopted_from]
        enter_adopted(study, space, [(trial, exact_point(trial.config, space)) for trial in adopted])
        if study.user_attrs.get("begun") or (study.trials and not adopted):
            return
        warm = sweep_facts(self._journal.events).get("warm_start") or {}
        for point in (*warm.get("points", ()), space.restrict(self._config.recommended)):
            if point:
                study.enqueue_trial(point)
        study.set_user_attr("begun", True)
