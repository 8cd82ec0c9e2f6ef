"""Checkpoints of a trial: adapter, optimizer, schedule and position. Safetensors and JSON, no pickled code."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from search.errors import TrialError
from trainables.adapters import load_adapter_tensors, save_adapter, saved_adapter
from trainables.training import Progress, Training

OPTIMIZER = "optimizer.safetensors"
STATE = "state.json"


def save_training(training: Training, folder: Path, extra: dict[str, Any]) -> None:
    """Write a trial's state after a rung. ``extra`` is plain data that comes back from `load_training`.

    The full fine-tuning baseline keeps no weights (twelve bytes per parameter): it starts over.
    """
    spec = training.spec
    state: dict[str, Any] = {
        "spec": spec.model_dump(mode="json"),
        "extra": extra,
        "progress": asdict(training.progress),
    }
    if spec.kind == "lora":
        save_adapter(training.module, spec, folder, training.initial)  # type: ignore[arg-type]
        tensors, groups = _flatten_optimizer(training.optimizer.state_dict())
        save_file(tensors, folder / OPTIMIZER)
        state |= {"optimizer_groups": groups, "schedule": _plain(training.scheduler.state_dict())}
    (folder / STATE).write_text(json.dumps(state))


def load_training(training: Training, folder: Path) -> dict[str, Any]:
    """Put a fresh training of the same spec where the saved one stood. Returns its ``extra``.

    Raises:
        TrialError: the checkpoint is of another config.
    """
    state = json.loads((folder / STATE).read_text())
    spec = training.spec
    if spec.kind == "full":
        return {}
    if state["spec"]["config"] != spec.model_dump(mode="json")["config"]:
        raise TrialError(f"checkpoint {folder.name} belongs to another config")
    trained, initial = saved_adapter(folder)
    if initial is not None and not _equal(initial, training.initial or {}):
        raise TrialError("PiSSA starts differently on this machine than where the checkpoint was made")
    load_adapter_tensors(training.module, trained)  # type: ignore[arg-type]
    training.optimizer.load_state_dict(
        {"state": _unflatten(load_file(folder / OPTIMIZER)), "param_groups": state["optimizer_groups"]}
    )
    training.scheduler.load_state_dict(state["schedule"])
    training.progress = Progress(**state["progress"])
    return dict(state["extra"])


def _equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def _flatten_optimizer(state: dict[str, Any]) -> tuple[dict[str, torch.Tensor], list[dict[str, Any]]]:
    """An optimizer's state dict as named tensors and plain data."""
    tensors = {
        f"{index}.{name}": torch.as_tensor(value).detach().cpu().contiguous()
        for index, values in state["state"].items()
        for name, value in values.items()
    }
    return tensors, [_plain(group) for group in state["param_groups"]]


def _unflatten(tensors: dict[str, torch.Tensor]) -> dict[int, dict[str, torch.Tensor]]:
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = tensor
    return state


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """Without what JSON cannot hold: the schedule's function is made anew from the spec."""
    return {name: value for name, value in values.items() if name != "lr_lambdas"} | (
        {"lr_lambdas": [None]} if "lr_lambdas" in values else {}
    )
