from pathlib import Path

from search.cgroups import cpu_quota, free_memory_bytes


def system(root: Path, membership: str, files: dict[str, str]) -> Path:
    """A file system with a process's group membership and the files of control groups."""
    for name, text in {"proc/self/cgroup": membership, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


def test_version_2_limits_of_the_group_and_of_those_above_hold(tmp_path: Path) -> None:
    files = {
        "sys/fs/cgroup/job/cpu.max": "150000 100000",
        "sys/fs/cgroup/job/step/cpu.max": "max 100000",
        "sys/fs/cgroup/job/memory.max": "1000",
        "sys/fs/cgroup/job/memory.current": "700",
        "sys/fs/cgroup/job/memory.stat": "anon 500\ninactive_file 150",
        "sys/fs/cgroup/job/step/memory.max": "max",
        "sys/fs/cgroup/job/step/memory.current": "600",
        "sys/fs/cgroup/other/cpu.max": "10000 100000",
    }
    root = system(tmp_path, "0::/job/step", files)
    assert cpu_quota(root) == 1.5
    assert free_memory_bytes(root) == 450


def test_version_1_in_a_container_reads_the_mounts_root(tmp_path: Path) -> None:
    files = {
        "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "400000",
        "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "5000",
        "sys/fs/cgroup/memory/memory.usage_in_bytes": "2000",
        "sys/fs/cgroup/memory/memory.stat": "inactive_file 1\ntotal_inactive_file 500",
    }
    root = system(tmp_path, "5:memory:/docker/abc\n3:cpuacct,cpu:/docker/abc\n0::/", files)
    assert cpu_quota(root) == 4
    assert free_memory_bytes(root) == 3500


def test_without_limits_or_control_groups_there_is_none(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path) is None
    assert free_memory_bytes(tmp_path) is None
    files = {
        "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
        "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
        "sys/fs/cgroup/memory.max": "max",
        "sys/fs/cgroup/memory.current": "5",
    }
    root = system(tmp_path, "3:cpu:/\n0::/", files)
    assert cpu_quota(root) is None
    assert free_memory_bytes(root) is None
