"""The end of another process's log, wherever its node is."""

from pathlib import Path

LINES = 5
CHARACTERS_PER_LINE = 200
_READ_BYTES = 16_384
_REMOTE_SECONDS = 10.0
# Ray's own first lines of a worker's log, and the long list with which Python ends its report of a crash.
_SKIPPED = (":job_id:", ":actor_name:", ":task_name:", "Extension modules:")


def tail_of_file(path: str) -> str:
    """The last lines of a log, joined into one; empty if it has none or is not to be read."""
    try:
        with Path(path).open("rb") as file:
            file.seek(max(0, Path(path).stat().st_size - _READ_BYTES))
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        return ""
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith(_SKIPPED)]
    return " | ".join(line[:CHARACTERS_PER_LINE] for line in lines[-LINES:])


def log_tail(path: str | None, node_id: str) -> str:
    """The last lines of a log on the node ``node_id``; empty if the node does not answer within seconds."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    if path is None:
        return ""
    if node_id == ray.get_runtime_context().get_node_id():
        return tail_of_file(path)
    there = NodeAffinitySchedulingStrategy(node_id, soft=False)
    answer = ray.remote(tail_of_file).options(num_cpus=0, scheduling_strategy=there).remote(path)
    try:
        return str(ray.get(answer, timeout=_REMOTE_SECONDS))
    except Exception:  # the node is gone, or as good as gone
        return ""
