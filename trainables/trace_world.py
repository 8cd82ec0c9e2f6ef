"""A process in which no tensor has data and no other process exists, though ColossalAI's plugins believe both."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_map

# Where torch keeps what it knows of process groups.
_GROUP_TABLES = ("_pg_map", "_pg_names", "_pg_group_ranks", "_pg_backend_config", "_tags_to_pg", "_pg_to_tag")
_FIRST_GROUP_NAME = 1_000_000  # apart from the names of the process's real groups


class DatalessMode(TorchDispatchMode):
    """Answers what fake tensors cannot: values, selections by a mask, collectives.

    ``selected`` is the number of elements that every boolean mask is said to select.
    """

    def __init__(self, selected: int) -> None:
        super().__init__()
        self.selected = selected

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        aten, kwargs = torch.ops.aten, kwargs or {}
        if func is aten._local_scalar_dense.default:
            return 1.0
        if func is aten.index.Tensor and args[1][0].dtype == torch.bool:
            source, (mask, *_) = args
            return source.new_empty((self.selected, *source.shape[mask.dim() :]))
        if func in (aten._index_put_impl_.default, aten.index_put_.default):
            return args[0]
        if func is aten._grouped_mm.default and args[0].dtype != torch.bfloat16:
            return _grouped_product(*args, **kwargs)
        if func.namespace == "c10d":
            return _collective(func, args, kwargs)
        return func(*args, **kwargs)


def _grouped_product(a: Tensor, b: Tensor, offs: Tensor, *_: Any, **__: Any) -> Tensor:
    """What experts' grouped product gives in fp32, which a CPU has a kernel for, but torch 2.13 no shape function.

    ``[S, K] x [E, K, N]`` is ``[S, N]``; the weights' gradient ``[K, S] x [S, N]`` is ``[E, K, N]``.
    """
    shape = (a.shape[0], b.shape[-1]) if b.dim() == 3 else (offs.shape[0], a.shape[0], b.shape[-1])
    return a.new_empty(shape)


def _collective(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run it on stand-ins, since the fake process group looks at no data; the results go into the arguments.

    They are empty, since newer versions of torch check that what is scattered is as large as all shares together.
    """
    with _disable_current_modes():
        stand_ins = tree_map(lambda x: torch.empty(0) if isinstance(x, Tensor) else x, (args, kwargs))
        result = func(*stand_ins[0], **stand_ins[1])
    return (args[0], result[1]) if isinstance(result, tuple) else result


@contextmanager
def fake_process_group(devices: int) -> Iterator[None]:
    """A default process group of ``devices`` ranks, of which this is the first; the real one comes back."""
    import torch.distributed.distributed_c10d as c10d
    from colossalai.context.singleton_meta import SingletonMeta
    from torch.testing._internal.distributed.fake_pg import FakeStore

    world = c10d._World()
    tables: dict[str, Any] = {name: {} for name in _GROUP_TABLES}
    tables |= {"_world": world, "_group_count": _FIRST_GROUP_NAME}
    with (
        patch.multiple(c10d, **tables),
        patch.object(SingletonMeta, "_instances", {}),
    ):
        dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=devices)
        try:
            yield
        finally:  # not destroyed, as torch would then forget the real groups' names, too
            for name in c10d._pg_names.values():
                c10d._unregister_process_group(name)


def _pretended_gpu() -> Any:
    """An accelerator on the CPU that says it is a CUDA device, as ColossalAI's ZeRO demands one."""
    from colossalai.accelerator.cpu_accelerator import CpuAccelerator

    class PretendedGpu(CpuAccelerator):
        name = "cuda"

        def __init__(self) -> None:
            self._name, self._communication_backend, self._is_synchronous = "cuda", "fake", False

        def device_count(self) -> int:
            return 1

        def Stream(self, *args: Any, **kwargs: Any) -> Any:  # noqa: N802
            return _Stream()

        def current_stream(self, device: Any = None) -> Any:
            return _Stream()

        def stream(self, stream_: Any) -> Any:
            return nullcontext()

        def synchronize(self, device: Any = None) -> None:
            return None

    return PretendedGpu()


def _put_data(old: Tensor, new: Tensor) -> None:
    old.data = new.data


class _Stream:
    def wait_stream(self, other: Any) -> None:
        """Nothing runs on it."""


@contextmanager
def fake_world(devices: int, selected: int) -> Iterator[None]:
    """Everything a boosted training needs to run on fake tensors; random and global state stay as they were."""
    import colossalai.accelerator.api as accelerators
    import torch.nn.parallel.distributed as ddp
    from torch._subclasses.fake_tensor import FakeTensorMode

    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=[]))
        stack.enter_context(fake_process_group(devices))
        stack.enter_context(patch.object(accelerators, "_ACCELERATOR", _pretended_gpu()))
        stack.enter_context(patch.object(Tensor, "record_stream", lambda tensor, stream: None))
        # `Module.to` swaps fake parameters, which others refer to; torch 2.5 put the data into the old ones.
        stack.enter_context(patch.object(torch.utils, "swap_tensors", _put_data))
        # Both look at the parameters' data.
        for function in ("_verify_param_shape_across_processes", "_sync_module_states"):
            stack.enter_context(patch.object(ddp, function, lambda *args, **kwargs: None))
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        stack.enter_context(DatalessMode(selected))
        yield
