"""Checkpoints of a trial: adapter, optimizer, schedule and position. Safetensors and JSON, no pickled code.

With ZeRO every device holds its own part of the optimizer's state and of the fp32 master weights, and saves that part.
Everything else is the same on all devices: the first one saves it.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from search.errors import TrialError
from trainables.adapters import load_adapter_tensors, save_adapter, saved_adapter
from trainables.memory import innermost_optimizer
from trainables.training import Progress, Training

STATE = "state.json"
_MASTER = "master"
# What `_flatten_optimizer` must not turn into tensors: HybridAdam counts steps in Python numbers.
_NUMBERS = "optimizer_numbers"


def optimizer_file(rank: int) -> str:
    """The name of the file with the optimizer state that device number ``rank`` of a trial saves."""
    return "optimizer.safetensors" if rank == 0 else f"optimizer-{rank}.safetensors"


def shards_optimizer(training: Training) -> bool:
    """Whether each device has a part of the optimizer's state of its own."""
    return training.shard.devices > 1 and training.spec.execution.plugin.startswith("zero")


def save_training(training: Training, folder: Path, extra: dict[str, Any]) -> None:
    """Write a trial's state after a rung. ``extra`` is plain data that comes back from `load_training`.

    The full fine-tuning baseline keeps no weights (twelve bytes per parameter): it starts over.
    """
    spec, rank = training.spec, training.shard.rank
    state: dict[str, Any] = {
        "spec": spec.model_dump(mode="json"),
        "extra": extra,
        "progress": asdict(training.progress),
    }
    if spec.kind == "lora" and (rank == 0 or shards_optimizer(training)):
        tensors, numbers, groups = _flatten_optimizer(innermost_optimizer(training.optimizer))
        folder.mkdir(parents=True, exist_ok=True)
        save_file(tensors | _masters(training), folder / optimizer_file(rank))
        state |= {"optimizer_groups": groups, _NUMBERS: numbers}
    if rank > 0:
        return
    if spec.kind == "lora":
        save_adapter(training.module, spec, folder, training.initial)  # type: ignore[arg-type]
        state |= {"schedule": _plain(training.scheduler.state_dict())}
    (folder / STATE).write_text(json.dumps(state))


def load_training(training: Training, folder: Path) -> dict[str, Any]:
    """Put a fresh training of the same spec where the saved one stood. Returns its ``extra``.

    Raises:
        TrialError: the checkpoint is of another config or number of devices.
    """
    state = json.loads((folder / STATE).read_text())
    spec = training.spec
    if spec.kind == "full":
        return {}
    if state["spec"]["config"] != spec.model_dump(mode="json")["config"]:
        raise TrialError(f"checkpoint {folder.name} belongs to another config")
    devices = state["spec"]["execution"].get("devices_per_trial", 1)
    if devices != spec.execution.devices_per_trial:
        raise TrialError(
            f"checkpoint {folder.name} is of a trial on {devices} devices, not {spec.execution.devices_per_trial}"
        )
    trained, initial = saved_adapter(folder)
    if initial is not None and not _equal(initial, training.initial or {}):
        raise TrialError("PiSSA starts differently on this machine than where the checkpoint was made")
    load_adapter_tensors(training.module, trained)  # type: ignore[arg-type]
    _load_optimizer(training, folder, state)
    training.scheduler.load_state_dict(state["schedule"])
    training.progress = Progress(**state["progress"])
    return dict(state["extra"])


def _equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def _masters(training: Training) -> dict[str, torch.Tensor]:
    """The fp32 master weights that a plugin keeps beside the adapters (this device's part); none with DDP."""
    adapters = {id(parameter) for parameter in training.module.parameters()}
    groups = innermost_optimizer(training.optimizer).param_groups
    masters = [p for group in groups for p in group["params"] if id(p) not in adapters]
    return {f"{_MASTER}.{index}": tensor.detach().cpu().contiguous() for index, tensor in enumerate(masters)}


def _load_optimizer(training: Training, folder: Path, state: dict[str, Any]) -> None:
    """Optimizer state and master weights; loading the adapters has not changed the masters."""
    rank = training.shard.rank if shards_optimizer(training) else 0
    optimizer, tensors = innermost_optimizer(training.optimizer), load_file(folder / optimizer_file(rank))
    masters = {name: tensors.pop(name) for name in [n for n in tensors if n.startswith(f"{_MASTER}.")]}
    adapters = {id(parameter) for parameter in training.module.parameters()}
    own = [p for group in optimizer.param_groups for p in group["params"] if id(p) not in adapters]
    with torch.no_grad():
        for index, parameter in enumerate(own):
            parameter.copy_(masters[f"{_MASTER}.{index}"])
    values = _unflatten(tensors)
    for key, numbers in state.get(_NUMBERS, {}).items():
        values.setdefault(int(key), {}).update(numbers)
    optimizer.load_state_dict({"state": values, "param_groups": state["optimizer_groups"]})


def _flatten_optimizer(
    optimizer: torch.optim.Optimizer,
) -> tuple[dict[str, torch.Tensor], dict[str, dict[str, Any]], list[dict[str, Any]]]:
    """An optimizer's state as named tensors, plain numbers, and its groups' settings."""
    # Not its own method: bitsandbytes' packs part of the state into another dictionary.
    state = torch.optim.Optimizer.state_dict(optimizer)
    tensors: dict[str, torch.Tensor] = {}
    numbers: dict[str, dict[str, Any]] = {}
    for index, values in state["state"].items():
        for name, value in values.items():
            if torch.is_tensor(value):
                # A copy: bitsandbytes' states share a table, which safetensors does not write.
                tensors[f"{index}.{name}"] = value.detach().to("cpu", copy=True).contiguous()
            else:
                numbers.setdefault(str(index), {})[name] = value
    return tensors, numbers, [_plain(group) for group in state["param_groups"]]


def _unflatten(tensors: dict[str, torch.Tensor]) -> dict[int, dict[str, Any]]:
    state: dict[int, dict[str, Any]] = {}
    for key, tensor in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = tensor
    return state


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """Without what JSON cannot hold: the schedule's function is made anew from the spec."""
    return {name: value for name, value in values.items() if name != "lr_lambdas"} | (
        {"lr_lambdas": [None]} if "lr_lambdas" in values else {}
    )
