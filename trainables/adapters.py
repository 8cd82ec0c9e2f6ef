"""LoRA adapters on a base model that is kept: creation, removal, saving in PEFT's own format.

PiSSA (arXiv 2404.02948) moves the principal part of each weight into the adapter and so changes the base. Saved
for PEFT, such an adapter is rewritten as a plain LoRA of twice the rank on the *original* base:
``s B A - s B0 A0 = s [B, -B0] [A; A0]``, with A0, B0 the adapter before training.
"""

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from trainables.settings import TrialSpec

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel

INITIAL_ADAPTER = "initial_adapter.safetensors"
TRAINED_ADAPTER = "trained_adapter.safetensors"


def lora_config(spec: TrialSpec, base: torch.nn.Module) -> "LoraConfig":
    """The PEFT configuration of a trial on the model ``base``, which tells modules from fused experts' parameters."""
    from peft import LoraConfig

    config = spec.config
    parameters = [name for name, _ in base.named_parameters()]
    experts = [t for t in spec.target_modules if any(name.endswith(f".{t}") for name in parameters)]
    # PEFT's fast SVD with 16 power iterations (assumed: enough; the exact SVD takes far longer per module).
    init: bool | str = "pissa_niter_16" if config.init == "pissa" else True
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=[name for name in spec.target_modules if name not in experts],
        target_parameters=experts or None,
        use_rslora=config.use_rslora,
        use_dora=config.use_dora,
        init_lora_weights=init,
    )


def adapter_tensors(model: "PeftModel") -> dict[str, Tensor]:
    """The adapter's tensors under PEFT's file names, on the CPU."""
    from peft import get_peft_model_state_dict

    return {name: t.detach().cpu().contiguous() for name, t in get_peft_model_state_dict(model).items()}


def load_adapter_tensors(model: "PeftModel", tensors: dict[str, Tensor]) -> None:
    """Put saved tensors back into the adapter of ``model``."""
    from peft import set_peft_model_state_dict

    set_peft_model_state_dict(model, tensors)


def remove_adapter(model: "PeftModel") -> torch.nn.Module:
    """The base model without its adapter, as it was before `Booster.enable_lora`."""
    base: torch.nn.Module = model.unload()
    if hasattr(base, "peft_config"):
        del base.peft_config  # PEFT leaves it behind and would then warn of a second adapter
    return base


def as_plain_lora(
    trained: dict[str, Tensor], initial: dict[str, Tensor], config: dict[str, Any]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A PiSSA adapter as a LoRA of rank 2 r on the original base (see the module's text).

    Alpha grows so that the scale stays: alpha / r is kept by 2 alpha, alpha / sqrt(r) by sqrt(2) alpha.
    """
    tensors = {}
    for name, tensor in trained.items():
        before = initial[name]
        tensors[name] = (
            torch.cat([tensor, before], 0) if "lora_A" in name else torch.cat([tensor, -before], 1)
        )
    factor = math.sqrt(2) if config["use_rslora"] else 2
    plain = config | {
        "r": 2 * config["r"],
        "lora_alpha": factor * config["lora_alpha"],
        "init_lora_weights": True,
    }
    return tensors, plain


def save_adapter(
    model: "PeftModel", spec: TrialSpec, folder: Path, initial: dict[str, Tensor] | None
) -> None:
    """Write ``folder/adapter`` in PEFT's format, and for PiSSA (``initial`` given) the tensors to go on from."""
    adapter = folder / "adapter"
    adapter.mkdir(parents=True, exist_ok=True)
    model.peft_config["default"].save_pretrained(str(adapter))
    config_file = adapter / "adapter_config.json"
    config = json.loads(config_file.read_text())
    config["target_modules"] = sorted(config["target_modules"])
    config["inference_mode"] = True
    tensors = adapter_tensors(model)
    if initial is not None:
        save_file(tensors, folder / TRAINED_ADAPTER)
        save_file(initial, folder / INITIAL_ADAPTER)
        tensors, config = as_plain_lora(tensors, initial, config)
    config_file.write_text(json.dumps(config, indent=2, sort_keys=True))
    save_file(tensors, adapter / "adapter_model.safetensors", metadata={"format": "pt"})


def saved_adapter(folder: Path) -> tuple[dict[str, Tensor], dict[str, Tensor] | None]:
    """What `save_adapter` wrote: the tensors to go on from, and PiSSA's initial ones."""
    if (folder / TRAINED_ADAPTER).exists():
        return load_file(folder / TRAINED_ADAPTER), load_file(folder / INITIAL_ADAPTER)
    return load_file(folder / "adapter" / "adapter_model.safetensors"), None
