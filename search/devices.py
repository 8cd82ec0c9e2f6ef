"""How trials use the devices there are: what a sweep with several devices per trial needs, checked before it starts."""

from pathlib import Path

from search.config import SweepConfig
from search.environment import cpu_budget
from search.errors import InputError, LorafrontError
from search.installation import check_installation
from search.space import Choices
from search.units import counted
from trainables.plugins import check_plugin
from trainables.settings import TrialConfig


def check_devices(config: SweepConfig, gpus: int, cores: int) -> None:
    """Refuse a sweep whose trials need more devices than there are; on a CPU a device is a process with a core.

    A cluster's devices are not this machine's, and may come when they are asked for: with an address nothing is checked.

    Raises:
        InputError: too many devices.
    """
    devices = config.execution.devices_per_trial
    there_are = gpus or cores
    if config.address is None and devices > max(1, there_are):
        kind = "GPU" if gpus else "CPU core"
        raise InputError(
            f"execution.devices_per_trial {devices}: this machine has {counted(there_are, kind)}"
        )


def check_sharing(config: SweepConfig) -> None:
    """Refuse what no machine could share among a trial's devices.

    Raises:
        InputError: the plugin, or a batch size of the search space or of full fine-tuning.
    """
    check_plugin(config.execution, "cuda")
    devices = config.execution.devices_per_trial
    if devices == 1:
        return
    advice = f"give multiples of execution.devices_per_trial {devices}"
    bad = [size for size in _batch_sizes(config) if size % devices]
    if bad:
        raise InputError(
            f"space.batch_size: {devices} devices cannot share {bad[0]} examples equally: {advice}"
        )
    size = config.baseline.batch_size
    if config.baseline.enabled and size % devices:
        raise InputError(
            f"baseline.batch_size: {devices} devices cannot share {size} examples equally: {advice}"
        )


def device_note(config: SweepConfig) -> str | None:
    """What to say where this machine could not run the sweep, but another one may; without importing torch."""
    gpus = len([path for path in Path("/dev").glob("nvidia[0-9]*") if path.name[6:].isdigit()])
    try:
        check_plugin(config.execution, "cuda" if gpus else "cpu")
        check_devices(config, gpus, cpu_budget())
        check_installation()
    except LorafrontError as error:
        return f"not on this machine: {error}"
    return None


def _batch_sizes(config: SweepConfig) -> list[int]:
    """Every batch size that a trial may have."""
    dimension = config.search_space.dimensions.get("batch_size")
    if dimension is None:
        return [int(TrialConfig.model_fields["batch_size"].default)]
    if isinstance(dimension, Choices):
        return [int(value) for value in dimension.values]
    return list(range(int(dimension.low), int(dimension.high) + 1, int(dimension.step or 1)))


def ray_cpus(concurrent: int, devices: int) -> int:
    """The cores to tell a Ray of one's own of, so that it runs ``concurrent`` trials on the CPU at once and no more.

    >>> ray_cpus(3, 1), ray_cpus(2, 4)
    (3, 8)
    """
    return concurrent * devices
