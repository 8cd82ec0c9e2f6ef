"""A sweep on a cluster at rest: Ray's real autoscaler starts nodes for it, and lets them go afterwards.

Ray's own fake provider starts the nodes as processes on this machine; trials run on them. Prints what the cluster had
when, and fails unless nodes came for the sweep, went after it, and nothing was left that asks for machines:

    python -m tests.benchmarks.autoscaling
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from tests.integration.conftest import LEARNABLE, LORAFRONT, write_chat
from tests.integration.ray_nodes import HOST, RayNodes, free_port, own_environment
from tests.tiny import tiny_llama

MOST_NODES = 2
IDLE_MINUTES = 0.2
HEAD_ID = "f" * 51 + "00000"  # what Ray's fake provider calls the head
# The second version of the autoscaler, which `ray up` starts, too (ray/autoscaler/_private/commands.py).
FAKE_CLUSTER = {
    "RAY_FAKE_CLUSTER": "1",
    "RAY_enable_autoscaler_v2": "1",
    "RAY_CLOUD_INSTANCE_ID": HEAD_ID,
    "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD_ID,
    "AUTOSCALER_UPDATE_INTERVAL_S": "1",
}
SWEEP = [
    "sweep", "--base-model", "model", "--data", "chat.jsonl", "--trials", "6", "--max-examples", "36",
    "--no-baseline", "--confirm", "0", "--out", "run", "--set", "execution.threads=1", *LEARNABLE,
]  # fmt: skip


def autoscaler(gcs_address: str) -> dict[str, Any]:
    """A configuration of the fake provider: a head without cores, and workers of one core."""
    lists = ("initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands")
    lists += ("head_start_ray_commands", "worker_start_ray_commands", "cluster_synced_files", "rsync_exclude")
    worker = {"resources": {"CPU": 1, "object_store_memory": 80 * 2**20}, "node_config": {}}
    return {
        "cluster_name": "fake",
        "max_workers": MOST_NODES,
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": IDLE_MINUTES,
        "provider": {
            "type": "external",  # Ray's wheel lacks the defaults of its fake_multinode
            "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
            "gcs_address": gcs_address,
            "head_node_id": HEAD_ID,
            "launch_multiple": True,
        },
        "auth": {},
        "docker": {},
        "file_mounts": {},
        "head_node_type": "ray.head.default",
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "worker": {**worker, "min_workers": 0, "max_workers": MOST_NODES},
        },
        **{name: [] for name in lists},
    }


class Watch:
    """Writes down how many worker nodes a cluster has, whenever that changes."""

    def __init__(self, address: str) -> None:
        import ray

        ray.init(address=address, log_to_driver=False, configure_logging=False)
        self.started, self.seen = time.monotonic(), [(0.0, 0)]
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def _work(self) -> None:
        while True:
            workers = self.workers()
            if workers != self.seen[-1][1]:
                self.seen.append((round(time.monotonic() - self.started, 1), workers))
                print(f"{self.seen[-1][0]:6.1f} s: {workers} worker nodes", flush=True)
            time.sleep(0.5)

    @staticmethod
    def workers() -> int:
        import ray

        return sum(node["Alive"] and node["Resources"].get("CPU", 0) >= 1 for node in ray.nodes())

    @staticmethod
    def left_over() -> list[Any]:
        """Placement groups, and machines that were asked for."""
        import ray
        from ray.experimental.internal_kv import _internal_kv_get

        groups = [
            g["placement_group_id"]
            for g in ray.util.placement_group_table().values()
            if g["state"] != "REMOVED"
        ]
        return groups + json.loads(_internal_kv_get(b"autoscaler_resource_request") or b"[]")


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="lf-", dir="/tmp") as name:
        folder = Path(name)
        tiny_llama(folder / "model")
        write_chat(folder / "chat.jsonl", 60)
        port = free_port()
        (folder / "autoscaler.json").write_text(json.dumps(autoscaler(f"{HOST}:{port}")))
        cluster = RayNodes(
            folder / "r", own_environment(folder) | FAKE_CLUSTER, "--num-cpus=0", "--include-dashboard=false",
            f"--autoscaling-config={folder}/autoscaler.json", port=port,
        )  # fmt: skip
        try:
            return watch_sweep(cluster, folder)
        finally:
            cluster.close()


def watch_sweep(cluster: RayNodes, folder: Path) -> int:
    user = {name: value for name, value in cluster.environment.items() if name not in FAKE_CLUSTER}
    os.environ |= {name: value for name, value in user.items() if name.startswith("RAY_")}
    watch = Watch(cluster.address)
    command = [LORAFRONT, *SWEEP, "--address", cluster.address]
    done = subprocess.run(command, cwd=folder, env=user, capture_output=True, text=True)
    ended = time.monotonic() - watch.started
    print(f"{ended:6.1f} s: the sweep ended with exit code {done.returncode}; left over: {watch.left_over()}")
    print(done.stdout[:1500] + done.stderr)
    deadline = time.monotonic() + 60 * IDLE_MINUTES + 120
    while watch.workers() and time.monotonic() < deadline:
        time.sleep(0.5)
    most = max(workers for _, workers in watch.seen)
    ok = done.returncode == 0 and most == MOST_NODES and watch.workers() == 0 and not watch.left_over()
    print("as it should be" if ok else "NOT as it should be")
    if not ok:
        log = (cluster.folder / "session_latest" / "logs" / "monitor.log").read_text()
        print(log[-4000:])
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
