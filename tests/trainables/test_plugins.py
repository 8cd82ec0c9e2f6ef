import pytest

from search.errors import InputError
from trainables.plugins import check_plugin
from trainables.settings import PLUGINS, ExecutionSettings


@pytest.mark.parametrize("plugin", [name for name in PLUGINS if name != "ddp"])
def test_other_plugins_are_refused_on_a_cpu(plugin: str) -> None:
    with pytest.raises(InputError, match=f"{plugin}.*needs a CUDA device.*execution.plugin=ddp"):
        check_plugin(ExecutionSettings(plugin=plugin), "cpu")  # type: ignore[arg-type]
    check_plugin(ExecutionSettings(plugin=plugin), "cuda")  # type: ignore[arg-type]


@pytest.mark.parametrize("field", [{"quantize": True}, {"dtype": "fp16"}, {"devices_per_trial": 2}])
def test_what_this_version_cannot_do_is_refused(field: dict[str, object]) -> None:
    with pytest.raises(InputError, match=str(next(iter(field.values()))).lower()):
        check_plugin(ExecutionSettings(**field), "cpu")  # type: ignore[arg-type]


@pytest.mark.gpu
@pytest.mark.parametrize("plugin", PLUGINS)
def test_plugins_train_on_a_gpu(plugin: str) -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    from trainables.plugins import make_plugin
    from trainables.worker import join_process_group

    join_process_group(torch.device("cuda", 0))
    assert make_plugin(ExecutionSettings(plugin=plugin)).support_lora()  # type: ignore[arg-type]
