"""Everything a sweep needs before its first trial: checked, fetched and prepared, nothing written yet."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from search.card_support import usable_gpus
from search.cluster import Cluster
from search.config import SweepConfig
from search.devices import check_devices, check_sharing
from search.environment import available_memory_bytes, cpu_budget, default_concurrency
from search.errors import InputError
from search.fitting_sets import with_fitting_sets
from search.longest_batch import LongestBatches
from search.prediction import TrialPredictor, corners, full_length_bytes
from trainables.base_models import cache_root, read_architecture, resolve_base_model
from trainables.data import PreparedData, prepare_data
from trainables.layer_memory import Device
from trainables.model_shape import shape_of
from trainables.peak import has_closed_form
from trainables.plugins import check_plugin
from trainables.served import check_served
from trainables.settings import Architecture, ExecutionSettings, TrialConfig, TrialSpec

BASELINE_ID = "baseline"
_DRIVERS = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")  # NVIDIA's, Windows' for Linux guests, AMD's


@dataclass(frozen=True)
class Machine:
    """What trials run on: ``device`` is cuda or cpu, ``concurrent`` trials at once with ``threads`` each.

    ``memory_bytes`` is what one device of a trial can have: a GPU's memory, or on a CPU what is free now, shared by the
    trial's devices.
    """

    device: Device
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
        """The spec of the ``number``-th sampled trial."""
        return self.spec(f"t{number:04d}", config)

    @cached_property
    def _predictor(self) -> TrialPredictor:
        return TrialPredictor(self.architecture, self.machine.device, LongestBatches(self.data))

    @cached_property
    def train_tokens(self) -> int:
        """Tokens of all training examples."""
        return sum(len(example.input_ids) for example in self.data.train)

    @cached_property
    def supervised_tokens(self) -> int:
        """Those of them that belong to an answer."""
        return sum(int(example.supervised.sum()) for example in self.data.train)

    def predict_memory(self, spec: TrialSpec) -> int:
        """Predicted peak bytes of one device of a trial, with its spec's execution, on its longest micro-batch."""
        return self._predictor.bytes_of(spec)

    def least_memory(self) -> int:
        """Predicted peak bytes of the smallest config of the space.

        Raises:
            InputError: a target module is none of a Llama's.
        """
        trials = corners(self.config, self.targets)
        return min(self.predict_memory(self.spec("smallest", trial)) for trial in trials)


def known_architecture(config: SweepConfig) -> Architecture:
    """The base model's shape without fetching anything: a local folder's own, else the profile's.

    Raises:
        InputError: the folder holds no usable model.
    """
    folder = Path(config.base_model).expanduser()
    return (
        read_architecture(resolve_base_model(config.base_model)) if folder.is_dir() else config.architecture
    )


def find_machine(config: SweepConfig, bytes_per_device: int) -> Machine:
    """The device kind, and how many trials run at once, of which one needs so many bytes on each of its devices.

    Raises:
        InputError: the plugin cannot run on this hardware, or there are fewer devices than one trial needs.
        BrokenEnvironmentError: torch cannot use a GPU that there is.
    """
    gpus = _gpus()
    check_plugin(config.execution, "cuda" if gpus else "cpu")
    cores, devices = cpu_budget(), config.execution.devices_per_trial
    check_devices(config, gpus, cores)
    concurrent, threads = default_concurrency(config.trials, cores, gpus, devices, bytes_per_device * devices)
    if config.concurrent is not None:
        concurrent, threads = config.concurrent, max(1, cores // (config.concurrent * devices))
    if gpus:
        import torch

        memory_bytes = torch.cuda.get_device_properties(0).total_memory
        return Machine("cuda", f"{gpus} x {torch.cuda.get_device_name(0)}", concurrent, None, memory_bytes)
    return Machine("cpu", f"{cores} CPU cores", concurrent, threads, available_memory_bytes() // devices)


def _gpus() -> int:
    """Devices that torch can use; where there is no driver, torch, which takes a second to import, is not asked.

    Raises:
        BrokenEnvironmentError: torch cannot use one that there is.
    """
    if not any(Path(file).exists() for file in _DRIVERS):
        return 0
    return usable_gpus()


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
    check_sharing(config)
    if config.address is not None:
        from search.ray_session import connect

        connect(config.address, say)
    else:
        _gpus()  # before anything is fetched
    base = resolve_base_model(config.base_model, sha256=config.base_model_sha256, say=say).resolve()
    architecture = read_architecture(base)
    config, targets = with_fitting_sets(config, architecture, say)
    check_served(architecture, targets.values())
    if config.execution.quantize and any(kind.experts for kind in shape_of(architecture).linears):
        say(
            "the experts stay in 16 bits: bitsandbytes quantises linear modules, and they are fused into one weight"
        )
    say(f"preparing {config.data.source}")
    data = prepare_data(
        config.data, str(base), train_examples=config.max_examples, seed=config.seed, cache_dir=cache_root()
    )
    if config.address is not None:
        machine = find_cluster(config, say)
    else:
        baseline = full_length_bytes(config, architecture, config.baseline_config(), (), "full")
        machine = find_machine(config, baseline)
    plan = SweepPlan(config, architecture, base, data, targets, machine)
    _check_budget(plan)
    return plan


def _check_budget(plan: SweepPlan) -> None:
    """A budget that not even the smallest config meets is a mistake, not a search.

    Without a budget the prediction is made all the same: it refuses what no trial of the space could be predicted for. Of
    a family that has to be traced, that takes a second or more per target set: then it is made of one config only.
    """
    from search.units import format_memory

    budget = plan.config.memory_budget
    if budget is None and not has_closed_form(plan.architecture, plan.config.data.seq_len):
        plan.predict_memory(plan.spec("any", corners(plan.config, plan.targets)[0]))
        return
    least = plan.least_memory()
    if budget is not None and least > budget:
        raise InputError(
            f"memory budget {format_memory(budget)} is below the smallest config of the space, "
            f"which is predicted to need {format_memory(least)}"
        )
