"""The doctor's checks that start the heavy libraries: PyTorch, ColossalAI and Ray."""

import socket
import time
from pathlib import Path

from search.card_support import cards_without_kernels, driver_problem, installed_driver
from search.doctor import Check
from search.environment import cpu_budget, disable_telemetry, quiet_libraries, software_versions
from search.errors import BrokenEnvironmentError, InputError
from search.installation import check_installation
from search.units import format_memory
from trainables.plugins import check_plugin
from trainables.settings import PLUGINS, ExecutionSettings

# Names in /proc/cpuinfo: x86's `flags` (kernel: cpufeatures.h) and Arm's `Features` (hwcap).
_BF16_FLAGS = ("avx512_bf16", "amx_bf16", "bf16", "svebf16")


def check_loopback() -> Check:
    """Whether a program can listen on 127.0.0.1 and be reached there, as Ray's processes do."""
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            socket.create_connection(server.getsockname(), timeout=5).close()
    except OSError as error:
        advice = "Ray's processes talk over 127.0.0.1: allow that in the firewall or sandbox"
        return Check("network", False, f"127.0.0.1 cannot be used: {error}", advice)
    return Check("network", True, "ports on 127.0.0.1 can be opened and reached")


def check_torch() -> Check:
    """Whether PyTorch imports, and on which devices it can train."""
    import torch

    if torch.cuda.is_available():
        return _check_cuda()
    detail = f"{torch.__version__}, CPU with {cpu_budget()} cores"
    if Path("/dev/nvidiactl").exists():
        return _check_unusable_cuda(detail, torch.version.cuda)
    if flags := cpu_bf16_flags():
        return Check("PyTorch", True, f"{detail}, bf16 in hardware ({', '.join(flags)})")
    advice = "sweeps work; --set execution.dtype=fp32 may be faster"
    return Check("PyTorch", None, f"{detail}, bf16 without help of the hardware", advice)


def _check_unusable_cuda(detail: str, cuda: str | None) -> Check:
    """There is NVIDIA's driver, but PyTorch can use no card."""
    if problem := driver_problem(installed_driver(), cuda):
        found, _, advice = problem.partition(": ")
        return Check("PyTorch", False, f"{detail}; {found}", advice)
    if cuda is None:
        advice = "install a build of PyTorch with CUDA to use it"
    else:
        advice = f"is the card hidden (CUDA_VISIBLE_DEVICES), or the driver too old for CUDA {cuda}?"
    return Check("PyTorch", None, f"{detail}; there is a GPU, but PyTorch cannot use it", advice)


def _check_cuda() -> Check:
    import torch

    cards = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    names = ", ".join(f"{card.name} with {format_memory(card.total_memory)}" for card in cards)
    detail = f"{torch.__version__}, {names}"
    if problems := cards_without_kernels():
        found, _, advice = problems[0].partition("): ")
        return Check("PyTorch", False, f"{detail}; {found})", advice)
    if all(card.major >= 8 for card in cards):  # compute capability 8.0, Ampere, is the first with bf16
        return Check("PyTorch", True, f"{detail}, bf16")
    return Check("PyTorch", None, f"{detail}, no bf16", "use --set execution.dtype=fp16")


def cpu_bf16_flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> list[str]:
    """Which instructions for bf16 the CPU says it has; none where that is unknown."""
    if not cpuinfo.exists():
        return []
    lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), "").split()
    return [flag for flag in _BF16_FLAGS if flag in flags]


def check_colossalai() -> Check:
    """Whether ColossalAI's Booster imports (5 s), and which plugins can run on this machine."""
    quiet_libraries()
    try:
        check_installation()
    except BrokenEnvironmentError as error:
        found, _, command = str(error).partition(": ")
        return Check("ColossalAI", False, found, f"run: {command}")
    import torch
    from colossalai.booster import Booster  # noqa: F401

    device = "cuda" if torch.cuda.is_available() else "cpu"
    usable = [name for name in PLUGINS if _runs_on(name, device)]
    other = [name for name in PLUGINS if name not in usable]
    needs = f" ({', '.join(other)} need a CUDA device)" if other else ""
    version = software_versions()["colossalai"]
    return Check("ColossalAI", True, f"{version}, plugins for this machine: {', '.join(usable)}{needs}")


def _runs_on(plugin: str, device: str) -> bool:
    try:
        check_plugin(ExecutionSettings.model_validate({"plugin": plugin}), device)
    except InputError:
        return False
    return True


def check_ray() -> Check:
    """Whether Ray starts on this machine, runs a task and stays on the loopback interface."""
    disable_telemetry()
    quiet_libraries()
    import ray

    if ray.is_initialized():
        return Check("Ray", True, f"{ray.__version__} is running in this process already")
    started = time.monotonic()
    try:
        ray.init(
            address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR"
        )
        address = ray.get(ray.remote(_node_address).remote(), timeout=60)
    except Exception as error:  # Ray's start fails in many ways: ports, shared memory, limits, time
        advice = "see the newest logs below /tmp/ray; ulimit -n, a full /tmp and a firewall are common causes"
        return Check("Ray", False, f"{ray.__version__} does not start: {error}".splitlines()[0], advice)
    finally:
        ray.shutdown()
    detail = f"{ray.__version__} started on {address} and ran a task in {time.monotonic() - started:.0f} s"
    if address.startswith("127."):
        return Check("Ray", True, detail)
    return Check("Ray", None, detail, "unset RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER to keep Ray off the network")


def _node_address() -> str:
    import ray

    return str(ray.util.get_node_ip_address())
