import pytest

from search.errors import InputError
from trainables.plugins import check_plugin
from trainables.settings import PLUGINS, ExecutionSettings


@pytest.mark.parametrize("plugin", [name for name in PLUGINS if name != "ddp"])
def test_other_plugins_are_refused_on_a_cpu(plugin: str) -> None:
    with pytest.raises(InputError, match=f"{plugin}.*needs a CUDA device.*execution.plugin=ddp"):
        check_plugin(ExecutionSettings(plugin=plugin), "cpu")  # type: ignore[arg-type]
    check_plugin(ExecutionSettings(plugin=plugin), "cuda")  # type: ignore[arg-type]


@pytest.mark.parametrize("field", [{"optimizer": "adamw-8bit"}, {"dtype": "fp16"}])
def test_what_a_cpu_cannot_do_is_refused(field: dict[str, object]) -> None:
    with pytest.raises(InputError, match=str(next(iter(field.values()))).lower()):
        check_plugin(ExecutionSettings(**field), "cpu")  # type: ignore[arg-type]


@pytest.mark.parametrize("precision", ["nf4", "int8"])
def test_a_cpu_takes_a_quantised_base(precision: str) -> None:
    check_plugin(ExecutionSettings(quantize=True, quantize_type=precision), "cpu")  # type: ignore[arg-type]


@pytest.mark.parametrize("plugin", PLUGINS)
def test_several_devices_take_a_plugin_that_shares_something(plugin: str) -> None:
    execution = ExecutionSettings(plugin=plugin, devices_per_trial=2)  # type: ignore[arg-type]
    if plugin == "hybrid":
        with pytest.raises(InputError, match=r"hybrid.*neither tensor nor pipeline parallelism.*use ddp"):
            check_plugin(execution, "cuda")
    else:
        check_plugin(execution, "cuda")


def test_ddp_leaves_frozen_parameters_alone() -> None:
    import torch

    from trainables.plugins import keep_from_ddp

    module = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    module[0].requires_grad_(False)
    keep_from_ddp(module)
    assert set(module._ddp_params_and_buffers_to_ignore) == {"0.weight", "0.bias"}
