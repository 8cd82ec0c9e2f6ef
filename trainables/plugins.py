"""ColossalAI plugins by name, and which of them can run on which hardware."""

from typing import TYPE_CHECKING, Any

from search.errors import InputError
from trainables.settings import ExecutionSettings

if TYPE_CHECKING:
    from colossalai.booster.plugin.plugin_base import Plugin
    from torch import nn

# LowLevelZero asserts cuda or npu in its constructor (colossalai 0.5.0, low_level_zero_plugin.py).
CPU_PLUGINS = ("ddp",)
# Only these keep gradients of a micro-batch local until the optimizer step (`Plugin.support_no_sync`).
NO_SYNC_PLUGINS = ("ddp", "zero1")


def check_plugin(execution: ExecutionSettings, device_type: str) -> None:
    """Refuse what the hardware or the plugin cannot do, before anything is loaded.

    Raises:
        InputError: the plugin or 4-bit quantisation on a device that cannot run it.
    """
    if device_type == "cpu" and execution.plugin not in CPU_PLUGINS:
        raise InputError(
            f"plugin {execution.plugin!r} needs a CUDA device, and there is none: "
            "use --set execution.plugin=ddp to train on the CPU"
        )
    if device_type == "cpu" and execution.optimizer == "adamw-8bit":
        raise InputError("optimizer 'adamw-8bit' needs a CUDA device (bitsandbytes), and there is none")
    if execution.optimizer == "adamw-8bit" and execution.plugin == "zero2-offload":
        raise InputError(
            "optimizer 'adamw-8bit' steps on the GPU, but plugin 'zero2-offload' keeps its states on the host"
        )
    if device_type == "cpu" and execution.dtype == "fp16":
        raise InputError("dtype 'fp16' trains on CUDA only: use bf16 or fp32 on the CPU")
    if execution.devices_per_trial > 1 and execution.plugin == "hybrid":
        # Booster asserts tp_size == 1 with LoRA; pp_size 2 fails in `boost` on Llama (colossalai 0.5.0).
        raise InputError(
            "plugin 'hybrid' on several devices: ColossalAI trains LoRA with neither tensor nor pipeline parallelism, "
            "and what is left of it is data parallelism: use ddp, zero1 or zero2"
        )


def import_plugins() -> None:
    """Import what `make_plugin` needs, which takes seconds."""
    import colossalai.booster.plugin  # noqa: F401


def make_plugin(execution: ExecutionSettings) -> "Plugin":
    """The plugin object; gradient clipping is the plugin's where ZeRO shards the gradients."""
    from colossalai.booster.plugin import HybridParallelPlugin, LowLevelZeroPlugin, TorchDDPPlugin

    if execution.plugin == "ddp":
        # Nothing to broadcast between the buffers of a frozen base.
        return TorchDDPPlugin(broadcast_buffers=False)
    precision = execution.dtype
    common: dict[str, Any] = {"precision": precision, "max_norm": execution.max_grad_norm}
    if execution.plugin == "hybrid":
        from trainables.whole_policy import WholeModel

        # Booster asserts tp_size == 1 with LoRA; pp_size 2 fails in `boost` on Llama.
        return HybridParallelPlugin(tp_size=1, pp_size=1, zero_stage=0, custom_policy=WholeModel(), **common)
    stage = 1 if execution.plugin == "zero1" else 2
    plugin = LowLevelZeroPlugin(stage=stage, cpu_offload=execution.plugin == "zero2-offload", **common)
    # It looks for every adapter's base weight by a name that fused experts do not have, to add what the optimizer lacks
    # (colossalai 0.5.0, low_level_zero_plugin.py); ours is made when the adapters are there, so it lacks none.
    plugin.add_lora_params_to_optimizer = lambda model, optimizer: None
    return plugin


def clips_by_itself(execution: ExecutionSettings) -> bool:
    """Whether the plugin clips gradients inside the optimizer step."""
    return execution.plugin != "ddp"


def keep_from_ddp(module: "nn.Module") -> None:
    """Have DDP leave the frozen parameters alone, which every device has read from the same files.

    Otherwise it sends the whole base model from the first device to the others at the start of every trial.
    """
    from torch.nn.parallel import DistributedDataParallel

    frozen = [name for name, parameter in module.named_parameters() if not parameter.requires_grad]
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(module, frozen)
