"""What every contender trains, and what is noted of it."""

import time
from dataclasses import dataclass, field
from typing import Any

WARM_UP = 2  # steps that are not timed


@dataclass
class Task:
    """What every contender trains: the spec, and batches as indices, the last one the longest of all."""

    plan: Any
    spec: Any
    batches: list[list[int]]

    @classmethod
    def make(cls, examples: int, model: str | None) -> "Task":
        """The recommended config on that many examples."""
        from search.config import resolve_config
        from search.plan import make_plan
        from trainables.batches import longest_micro_batch, plan_rungs

        config = resolve_config(None, flags={"base_model": model, "max_examples": examples})
        plan = make_plan(config, lambda text: None)
        spec = plan.spec("floor", config.search_space.to_config(config.recommended))
        spec = spec.model_copy(update={"rungs": (examples,)})
        lengths = [len(example.input_ids) for example in plan.data.train]
        batches = plan_rungs(len(lengths), spec.rungs, spec.config.batch_size, spec.seed, lengths)
        return cls(plan, spec, [*batches[0], longest_micro_batch(batches, lengths, spec.config.batch_size)])

    def factor(self, step: int) -> float:
        """Our learning-rate schedule."""
        from trainables.training import learning_rate_factor

        total = len(self.batches) - 1
        return learning_rate_factor(step, total, round(self.spec.config.warmup_ratio * total))

    def tokens(self, indices: list[int]) -> int:
        """Real tokens of a batch."""
        return sum(len(self.plan.data.train[index].input_ids) for index in indices)


@dataclass
class Record:
    """Times at the end of every step but the last, losses of them (nats per target), the last one's peak and FLOPs."""

    losses: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    peak_bytes: int = 0
    flops: int = 0

    def step_done(self) -> None:
        """A step ended now."""
        self.wall.append(time.perf_counter())
        self.cpu.append(time.process_time())

    def figures(self, task: Task) -> dict[str, Any]:
        """For the JSON file."""
        tokens = sum(task.tokens(indices) for indices in task.batches[WARM_UP:-1])
        seconds = [clock[-1] - clock[WARM_UP - 1] for clock in (self.wall, self.cpu)]
        return {
            "tokens_per_second": tokens / seconds[0],
            "tokens_per_cpu_second": tokens / seconds[1],
            "peak_bytes": self.peak_bytes,
            "flops_per_token": self.flops / task.tokens(task.batches[-1]),
            "losses": self.losses,
        }
