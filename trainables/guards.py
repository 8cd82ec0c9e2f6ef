"""Checks that a trial trains what its settings say: the ways in which LoRA goes wrong without a word.

Each fails the trial with a `TrialError` that names the cause.
"""

from typing import Any

import torch
from torch import nn

from search.errors import TrialError
from trainables.meta_model import decoder_layers


def check_trainable(module: nn.Module, target_modules: tuple[str, ...]) -> None:
    """Nothing but adapters may be trainable, and they must be.

    Raises:
        TrialError: a parameter outside the adapters is trainable, or nothing is.
    """
    trainable = [name for name, parameter in module.named_parameters() if parameter.requires_grad]
    wrong = [name for name in trainable if "lora_" not in name]
    if wrong:
        raise TrialError(f"parameters outside the adapters are trainable: {wrong[0]}{_and_more(len(wrong))}")
    if not trainable:
        raise TrialError(f"nothing is trainable: no module matches {list(target_modules)}")


def check_base_dtype(module: nn.Module, dtype: torch.dtype) -> None:
    """The frozen parameters must be of ``dtype``, or packed in 4 bits (which are integers to torch).

    Raises:
        TrialError: one is not.
    """
    wrong = [
        (name, parameter.dtype)
        for name, parameter in module.named_parameters()
        if not parameter.requires_grad and parameter.is_floating_point() and parameter.dtype != dtype
    ]
    if wrong:
        raise TrialError(
            f"the base model should be {dtype}, but {wrong[0][0]} is {wrong[0][1]}{_and_more(len(wrong))}"
        )


class FirstBackwardGuard:
    """Watches the first backward pass: who gets a gradient, and which layers are run again in it.

    Hooks see gradients also where a plugin takes them off the parameters at once, as ZeRO does. `check` or `remove`
    ends it.
    """

    def __init__(self, module: nn.Module, checkpointing: bool) -> None:
        self._checkpointing = checkpointing
        self._waiting: set[str] = set()
        self._layers = decoder_layers(module)
        self._runs = [0] * len(self._layers)
        self._handles: list[Any] = []
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                self._waiting.add(name)
                self._handles.append(parameter.register_post_accumulate_grad_hook(self._arrival(name)))
        for index, layer in enumerate(self._layers):
            # On a part of the layer: transformers 5 checkpoints `forward`, and the layer's own hooks stay outside.
            part = next(layer.children(), layer)
            self._handles.append(part.register_forward_pre_hook(self._run(index)))

    def _arrival(self, name: str) -> Any:
        return lambda parameter: self._waiting.discard(name)

    def _run(self, index: int) -> Any:
        def count(layer: nn.Module, inputs: Any) -> None:
            self._runs[index] += layer.training

        return count

    def check(self, micro_batches: int) -> None:
        """After the first backward pass of a step of so many micro-batches.

        Raises:
            TrialError: a trainable parameter got no gradient, or layers were not checkpointed as asked.
        """
        self.remove()
        if self._waiting:
            first = min(self._waiting)
            raise TrialError(
                f"{len(self._waiting)} trainable parameters got no gradient, the first is {first}"
            )
        expected = micro_batches * (2 if self._checkpointing else 1)
        wrong = [(index, runs) for index, runs in enumerate(self._runs) if runs != expected]
        if wrong:
            index, runs = wrong[0]
            asked = "on" if self._checkpointing else "off"
            raise TrialError(
                f"gradient checkpointing should be {asked}, but layer {index} ran {runs} times "
                f"in a step where it should run {expected} times"
            )

    def remove(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()


def _and_more(count: int) -> str:
    return f" and {count - 1} more" if count > 1 else ""
