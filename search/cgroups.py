"""What a Linux control group leaves to this process: containers, Slurm and Kubernetes limit jobs with them.

Both versions are read, as documented in the kernel's admin guide (cgroup-v2.rst; cgroup-v1/memory.rst and
scheduler/sched-bwc.rst). A limit of any group above the process's own holds too, so all are looked at.
"""

from collections.abc import Iterator
from pathlib import Path

_SYSTEM = Path("/")


def cpu_quota(system: Path = _SYSTEM) -> float | None:
    """Cores' worth of time that the process may use, such as 1.5; None without a limit.

    ``system`` is the root of the file system, for tests.
    """
    quotas = []
    for group in _groups("cpu", system):
        words = (_read(group / "cpu.max") or _v1_quota(group)).split()
        if len(words) == 2 and words[0] not in ("max", "-1"):
            quotas.append(int(words[0]) / int(words[1]))
    return min(quotas, default=None)


def _v1_quota(group: Path) -> str:
    """The quota of a version 1 group in the form of version 2: microseconds of time, then the period's."""
    return f"{_read(group / 'cpu.cfs_quota_us')} {_read(group / 'cpu.cfs_period_us')}"


def free_memory_bytes(system: Path = _SYSTEM) -> int | None:
    """Bytes that can be allocated before the limit is reached; None without a limit.

    Inactive file pages count as free: the kernel drops them before it kills anything.
    """
    free = []
    for group in _groups("memory", system):
        limit = _read(group / "memory.max") or _read(group / "memory.limit_in_bytes")
        used = _read(group / "memory.current") or _read(group / "memory.usage_in_bytes")
        if limit.isdigit() and used.isdigit():
            free.append(max(0, int(limit) - int(used) + _inactive_file_bytes(group)))
    return min(free, default=None)


def _inactive_file_bytes(group: Path) -> int:
    """With the groups below: version 1 says that under a name of its own."""
    words = (line.split() for line in _read(group / "memory.stat").splitlines())
    stat = {pair[0]: int(pair[1]) for pair in words if len(pair) == 2}
    return stat.get("total_inactive_file", stat.get("inactive_file", 0))


def _groups(controller: str, system: Path) -> Iterator[Path]:
    """Folders of the process's group for a controller and of those above it, of both versions.

    Inside a container the path of /proc/self/cgroup may be the host's; then only the mount's root is there,
    and it is the container's own group.
    """
    mount = system / "sys/fs/cgroup"
    for line in _read(system / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        # Version 2 has no controllers in its line; beside version 1 it is mounted at `unified`.
        for top in [mount / controller] if controllers else [mount, mount / "unified"]:
            own = top / path.strip("/")
            yield from (folder for folder in (own, *own.parents) if folder.is_relative_to(top))


def _read(path: Path) -> str:
    """A file's text, empty if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return ""
