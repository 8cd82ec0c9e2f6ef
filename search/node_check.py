"""What a cluster's node has for a trial: software, storage, base model. Runs on the node, where Ray ships it."""

import os
import subprocess
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from search.card_support import kernel_problem
from search.environment import available_memory_bytes, quiet_libraries
from search.errors import BrokenEnvironmentError, LorafrontError, UnfitNodeError
from search.installation import check_installation

# What losses or checkpoints depend on; MLflow and Optuna are the driver's alone.
PACKAGES = ("torch", "colossalai", "transformers", "peft", "safetensors", "tokenizers", "numpy", "ray")
TOKEN_FILE = ".storage-check"
_MIB = 2**20


@dataclass(frozen=True)
class NodeFacts:
    """A node's software and devices. ``problem`` says why the environment cannot be used, if so; memory is in bytes."""

    versions: dict[str, str]
    gpus: tuple[str, ...]
    gpu_memory_bytes: tuple[int, ...]
    memory_bytes: int
    problem: str | None


@dataclass(frozen=True)
class Needs:
    """What a trial needs of its node beside software.

    ``folder`` is the run folder, in which a file holds ``token``; ``base_model`` is the sweep's source, a path in it
    absolute, with its checksum where it has one.
    """

    folder: str
    token: str
    base_model: str
    base_model_sha256: str | None

    def write_token(self) -> None:
        """Put the token where the nodes are to find it."""
        (Path(self.folder) / TOKEN_FILE).write_text(self.token, encoding="utf-8")

    def remove_token(self) -> None:
        """Take it away again."""
        (Path(self.folder) / TOKEN_FILE).unlink(missing_ok=True)


def installed_versions() -> dict[str, str]:
    """Versions of what results depend on; builds of one version (2.13.0+cpu, 2.13.0+cu130) count as one."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name).partition("+")[0]
        except PackageNotFoundError:
            found[name] = "none"
    return found


def look_around() -> NodeFacts:
    """The facts of the node that this runs on."""
    quiet_libraries()
    names, sizes, capabilities = _gpus()
    problem = _why_unusable() or _without_kernels(names, capabilities)
    return NodeFacts(installed_versions(), names, sizes, available_memory_bytes(), problem)


def _why_unusable() -> str | None:
    try:
        check_installation()
        import trainables.worker  # noqa: F401  # with torch, transformers, peft and colossalai
    except BrokenEnvironmentError as error:
        return str(error)
    except Exception as error:  # a broken library may raise anything
        return f"{type(error).__name__}: {' '.join(str(error).split())}"
    return None


def _without_kernels(names: tuple[str, ...], capabilities: tuple[tuple[int, int], ...]) -> str | None:
    """Why torch cannot run on one of the GPUs, if so. It is not asked of the devices: see `_gpus`."""
    import torch

    flags = getattr(torch._C, "_cuda_getArchFlags", str)() or ""  # what `torch.cuda.get_arch_list` reads
    cards = zip(names, capabilities, strict=True)
    problems = (kernel_problem(name, number, flags.split(), torch.__version__) for name, number in cards)
    return next(filter(None, problems), None)


def _gpus() -> tuple[tuple[str, ...], tuple[int, ...], tuple[tuple[int, int], ...]]:
    """Names, memory and compute capabilities of the GPUs.

    By NVIDIA's own tool: no context is opened on a device that a trial may have.
    """
    query = ["nvidia-smi", "--query-gpu=compute_cap,memory.total,name", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return (), (), ()
    rows = [line.split(",", 2) for line in done.stdout.splitlines() if "," in line]
    capabilities = [tuple(map(int, row[0].split("."))) for row in rows]
    return (
        tuple(row[2].strip() for row in rows),
        tuple(int(row[1]) * _MIB for row in rows),
        tuple((major, minor) for major, minor in capabilities),
    )


def find_lacking(needs: Needs) -> list[str]:
    """What this node lacks, a few words for each thing; fetches the base model if it can."""
    from trainables.base_models import resolve_base_model

    lacking = []
    if _read(Path(needs.folder) / TOKEN_FILE) != needs.token:
        lacking.append(f"storage: it does not see {needs.folder}")
    try:
        resolve_base_model(needs.base_model, sha256=needs.base_model_sha256)
    except LorafrontError as error:
        lacking.append(f"base model: {error}")
    return lacking


def check_here(needs: Needs) -> None:
    """Raises UnfitNodeError where this node cannot run the sweep's trials."""
    lacking = find_lacking(needs)
    if lacking:
        raise UnfitNodeError(f"node {os.uname().nodename} lacks {'; '.join(lacking)}")


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return None
