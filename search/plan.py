"""Everything a sweep needs before its first trial: checked, fetched and prepared, nothing written yet."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from search.cluster import Cluster, joined_device
from search.config import SweepConfig
from search.environment import available_memory_bytes, cpu_budget, default_concurrency
from search.errors import InputError
from trainables.base_models import cache_root, read_architecture, resolve_base_model
from trainables.data import PreparedData, prepare_data
from trainables.memory_model import predict_peak
from trainables.modules import LLAMA_MODULES, linear_modules, resolve_targets
from trainables.plugins import check_plugin
from trainables.settings import Architecture, ExecutionSettings, TrialConfig, TrialSpec

BASELINE_ID = "baseline"


@dataclass(frozen=True)
class Machine:
    """What trials run on: ``device`` is cuda or cpu, ``concurrent`` trials at once with ``threads`` each.

    ``memory_bytes`` is what one trial can have: a GPU's memory, or on a CPU what is free now.
    """

    device: str
    description: str
    concurrent: int
    threads: int | None
    memory_bytes: int
    cluster: Cluster | None = None

    @property
    def workers(self) -> Callable[[], int]:
        """Tells how many trials are to go at once, which on a cluster changes with its nodes."""
        return self.cluster.capacity if self.cluster else lambda: self.concurrent

    @property
    def cpus_per_device(self) -> int:
        """The cores that Ray counts for one device of a trial."""
        return self.cluster.demand.cpus if self.cluster else 1


@dataclass(frozen=True)
class SweepPlan:
    """A checked sweep: base model on disk, data as tokens, target sets as the model's modules."""

    config: SweepConfig
    architecture: Architecture
    base_model_path: Path
    data: PreparedData
    targets: dict[str, tuple[str, ...]]
    machine: Machine

    @property
    def execution(self) -> ExecutionSettings:
        """The configuration's execution settings with the threads that this machine gives a trial."""
        execution = self.config.execution
        return execution.model_copy(update={"threads": execution.threads or self.machine.threads})

    @property
    def base_model_source(self) -> str:
        """The base model's source, a path absolute: a cluster's nodes start elsewhere than this process."""
        path = Path(self.config.base_model).expanduser()
        return str(path.resolve()) if path.exists() else self.config.base_model

    def spec(self, trial_id: str, config: TrialConfig, **more: Any) -> TrialSpec:
        """The spec of a trial of this sweep."""
        kind, seed = more.pop("kind", "lora"), more.pop("seed", self.config.seed)
        return TrialSpec(
            trial_id=trial_id,
            kind=kind,
            config=config,
            execution=self.execution,
            target_modules=() if kind == "full" else self.targets[config.targets],
            rungs=self.config.rungs,
            base_model_path=str(self.base_model_path),
            base_model=self.base_model_source if self.machine.cluster else None,
            base_model_sha256=self.config.base_model_sha256 if self.machine.cluster else None,
            seed=seed,
            **more,
        )

    def baseline_spec(self) -> TrialSpec:
        """The spec of full fine-tuning; evaluated on the test split, too, if front members will be."""
        config = self.config
        return self.spec(BASELINE_ID, config.baseline_config(), kind="full", evaluate_test=config.confirm > 0)

    def baseline_fits(self) -> bool:
        """Whether full fine-tuning is predicted to fit into the device."""
        return self.predict_memory(self.baseline_spec()) <= self.machine.memory_bytes

    def numbered_spec(self, number: int, config: TrialConfig) -> TrialSpec:
        """The spec of the ``number``-th sampled trial; without a baseline the first one evaluates the base."""
        first = number == 1 and not self.config.baseline.enabled
        return self.spec(f"t{number:04d}", config, evaluate_base=first)

    def predict_memory(self, spec: TrialSpec) -> int:
        """Predicted peak bytes of a trial (the closed form of `trainables.memory_model`)."""
        return predicted_bytes(
            self.config,
            self.architecture,
            spec.config,
            spec.target_modules,
            spec.kind,
            self.supervised_fraction,
        )

    @property
    def supervised_fraction(self) -> float:
        """The share of positions whose next token is an answer's, where the model's head is computed."""
        supervised = sum(int(example.supervised.sum()) for example in self.data.train)
        return max(supervised, 1) / sum(len(example.input_ids) for example in self.data.train)


def predicted_bytes(
    config: SweepConfig,
    arch: Architecture,
    trial: TrialConfig,
    modules: tuple[str, ...],
    kind: str = "lora",
    supervised_fraction: float = 1.0,
) -> int:
    """Predicted peak bytes of one trial config on this machine's kind of device, on batches of full length."""
    return predict_peak(
        arch,
        trial,
        config.execution,
        target_modules=modules,
        seq_len=config.data.seq_len,
        kind=kind,  # type: ignore[arg-type]
        device=device_type(),
        supervised_fraction=supervised_fraction,
    ).peak_bytes


def device_type() -> Any:
    """``cuda`` or ``cpu``; without importing torch where the driver's device files tell."""
    return joined_device() or ("cuda" if Path("/dev/nvidiactl").exists() else "cpu")


def target_modules(
    config: SweepConfig, available: tuple[str, ...] = LLAMA_MODULES
) -> dict[str, tuple[str, ...]]:
    """The modules behind every target set that the space can choose.

    Raises:
        InputError: a set or module that the model does not have.
    """
    return {n: resolve_targets(n, available, config.target_sets) for n in config.search_space.target_sets()}


def known_model(config: SweepConfig) -> tuple[Architecture, tuple[str, ...]]:
    """The base model's shape and linear modules without fetching anything: a local folder's own, else the profile's.

    Raises:
        InputError: the folder holds no usable model.
    """
    folder = Path(config.base_model).expanduser()
    if not folder.is_dir():
        return config.architecture, LLAMA_MODULES
    base = resolve_base_model(config.base_model)
    return read_architecture(base), linear_modules(base)


def memory_range(
    config: SweepConfig, arch: Architecture, targets: Mapping[str, tuple[str, ...]]
) -> tuple[int, int]:
    """Least and most predicted peak bytes over the corners of the space that move memory.

    ``targets`` gives the modules of every target set in the space.
    """
    dimensions = config.search_space.dimensions
    ranks, batches = _ends(dimensions.get("rank"), 8), _ends(dimensions.get("batch_size"), 4)
    predictions = [
        predicted_bytes(config, arch, TrialConfig(rank=rank, batch_size=batch, targets=name), modules)
        for rank in ranks
        for batch in batches
        for name, modules in targets.items()
    ]
    return min(predictions), max(predictions)


def _ends(dimension: Any, default: int) -> tuple[int, int]:
    if dimension is None:
        return default, default
    values = getattr(dimension, "values", None) or (dimension.low, dimension.high)
    return int(min(values)), int(max(values))


def find_machine(config: SweepConfig, bytes_per_trial: int) -> Machine:
    """The kind of device of this machine, and how many trials run on it at once.

    Raises:
        InputError: the plugin cannot run on this hardware.
    """
    import torch

    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    check_plugin(config.execution, "cuda" if gpus else "cpu")
    cores = cpu_budget()
    concurrent, threads = default_concurrency(
        config.trials, cores, gpus, config.execution.devices_per_trial, bytes_per_trial
    )
    if config.concurrent is not None:
        concurrent, threads = config.concurrent, max(1, cores // config.concurrent)
    if gpus:
        memory_bytes = torch.cuda.get_device_properties(0).total_memory
        return Machine("cuda", f"{gpus} x {torch.cuda.get_device_name(0)}", concurrent, None, memory_bytes)
    return Machine("cpu", f"{cores} CPU cores", concurrent, threads, available_memory_bytes())


def find_cluster(config: SweepConfig, say: Callable[[str], None]) -> Machine:
    """The cluster that Ray is connected to, in place of this machine.

    Raises:
        InputError: the plugin cannot run on the cluster's devices.
        BrokenEnvironmentError: no node can run trials, or one has other software.
    """
    from search.cluster_check import join_cluster

    cluster = join_cluster(config, say)
    on_gpu = cluster.demand.gpus > 0
    check_plugin(config.execution, "cuda" if on_gpu else "cpu")
    threads = None if on_gpu else cluster.demand.cpus
    return Machine(
        "cuda" if on_gpu else "cpu",
        cluster.description,
        cluster.capacity(),
        threads,
        cluster.memory_bytes,
        cluster,
    )


def make_plan(config: SweepConfig, say: Callable[[str], None]) -> SweepPlan:
    """Check and prepare everything.

    Raises:
        InputError: base model, data, target sets, plugin or memory budget cannot serve.
        BrokenEnvironmentError: the machine cannot.
    """
    if config.address is not None:
        from search.ray_session import connect

        connect(config.address, say)
    base = resolve_base_model(config.base_model, sha256=config.base_model_sha256, say=say).resolve()
    architecture = read_architecture(base)
    targets = target_modules(config, linear_modules(base))
    say(f"preparing {config.data.source}")
    data = prepare_data(
        config.data, str(base), train_examples=config.max_examples, seed=config.seed, cache_dir=cache_root()
    )
    baseline = predicted_bytes(config, architecture, config.baseline_config(), (), "full")
    machine = find_cluster(config, say) if config.address else find_machine(config, baseline)
    _check_budget(config, architecture, targets)
    return SweepPlan(config, architecture, base, data, targets, machine)


def _check_budget(config: SweepConfig, arch: Architecture, targets: dict[str, tuple[str, ...]]) -> None:
    """A budget that not even the smallest config meets is a mistake, not a search."""
    from search.units import format_memory

    if config.memory_budget is None:
        return
    least, _ = memory_range(config, arch, targets)
    if least > config.memory_budget:
        raise InputError(
            f"memory budget {format_memory(config.memory_budget)} is below the smallest config of the space, "
            f"which is predicted to need {format_memory(least)}"
        )
