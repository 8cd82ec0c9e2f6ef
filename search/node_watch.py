"""Nodes that join a cluster while a sweep runs: they are checked as they come."""

import threading
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any

from search.cluster import Cluster, Demand, Node, trial_nodes
from search.cluster_check import check_access, survey
from search.errors import BrokenEnvironmentError
from search.node_check import Needs

_LOOK_S = 1.0  # how often for new nodes


class NodeWatch:
    """Looks for nodes that join while a sweep runs, and keeps trials off those that cannot run them.

    A node that lacks something has its free room taken by placement groups until the sweep ends: Ray has no other way
    to keep work from a node. A trial that was faster than the check fails its own (`search.node_check.check_here`) and is
    tried again elsewhere.

    Args:
        demand: of one trial.
        needs: of a trial.
        known: nodes that are checked.
        say: told one line about every new node.
    """

    def __init__(
        self, demand: Demand, needs: Needs, known: Iterable[Node], say: Callable[[str], None]
    ) -> None:
        self._demand, self._needs, self._say = demand, needs, say
        self._known = {node.node_id for node in known}
        self._taken: list[Any] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work, name="nodes", daemon=True)

    def __enter__(self) -> "NodeWatch":
        self._needs.write_token()
        self._thread.start()
        return self

    def __exit__(self, *exception: Any) -> None:
        import ray

        self._over.set()
        self._thread.join(timeout=10 * _LOOK_S)
        for group in self._taken:
            with suppress(Exception):  # the cluster may be gone
                ray.util.remove_placement_group(group)
        self._needs.remove_token()

    def _work(self) -> None:
        while not self._over.wait(_LOOK_S):
            with suppress(Exception):  # the cluster is going, which Tune will say
                new = [node for node in trial_nodes(self._demand) if node.node_id not in self._known]
                self._known |= {node.node_id for node in new}
                for node in new:
                    self._check(node)

    def _check(self, node: Node) -> None:
        try:
            survey([node])
            check_access([node], self._needs)
        except BrokenEnvironmentError as error:
            self._keep_off(node)
            self._say(f"a node joined that gets no trials: {str(error).partition(': ')[2]}")
        else:
            self._say(f"{node.name} joined")

    def _keep_off(self, node: Node) -> None:
        import ray

        for _ in range(node.devices(self._demand)):
            group = ray.util.placement_group(
                [self._demand.per_device], bundle_label_selector=[{"ray.io/node-id": node.node_id}]
            )
            self._taken.append(group)


def watch_nodes(cluster: Cluster | None, needs: Needs | None) -> AbstractContextManager[Any]:
    """A `NodeWatch` for a sweep on a cluster; nothing for one on this machine."""
    if cluster is None or needs is None:
        return nullcontext()
    return NodeWatch(cluster.demand, needs, cluster.nodes, cluster.say)
