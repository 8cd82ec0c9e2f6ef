"""ColossalAI's HybridAdam, the one optimizer that steps where its states lie: on the device or on the host."""

from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any

import torch
from packaging.version import Version

# From this version on torch's headers are C++20; colossalai 0.5.0 (kernel/extensions/pybind/cpu_adam) asks for 17.
_CPP_20 = Version("2.14")


def hybrid_adam(
    parameters: Iterable[torch.nn.Parameter], learning_rate: float, weight_decay: float
) -> torch.optim.Optimizer:
    """The optimizer. CUDA's compiler makes it at its first use on a machine, in a minute or two."""
    from colossalai.nn.optimizer import HybridAdam

    leave_standard_to_torch(torch.__version__)
    optimizer: torch.optim.Optimizer = HybridAdam(parameters, lr=learning_rate, weight_decay=weight_decay)
    return optimizer


def leave_standard_to_torch(torch_version: str) -> None:
    """Have ColossalAI name no C++ standard where torch needs another: torch then adds the one of its headers."""
    if Version(torch_version) < _CPP_20:
        return
    from colossalai.kernel.kernel_loader import CPUAdamLoader

    for extension in CPUAdamLoader.REGISTRY:
        for name in ("cxx_flags", "nvcc_flags"):
            flags = getattr(extension, name)
            if not hasattr(flags, "__wrapped__"):
                setattr(extension, name, _without_standard(flags))


def _without_standard(flags: Callable[[Any], list[str]]) -> Callable[[Any], list[str]]:
    """The method ``flags`` without the flags that name a standard."""

    @wraps(flags)
    def method(self: Any) -> list[str]:
        return [flag for flag in flags(self) if not flag.startswith("-std=")]

    return method
