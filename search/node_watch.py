"""Nodes that join a cluster while a sweep runs: they are checked as they come."""

import threading
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any

from search.cluster import Cluster, Demand, Node, trial_nodes
from search.cluster_check import check_access, survey
from search.errors import BrokenEnvironmentError
from search.node_check import Needs

_LOOK_S = 0.5  # how often for new nodes
_LEAVE_S = 5.0  # for a check in progress when the sweep ends


class NodeWatch:
    """Looks for nodes that join or go while a sweep runs, and keeps trials off those that cannot run them.

    A new node's free room is taken by placement groups until it is checked, and until the sweep ends if it lacks
    something: Ray has no other way to keep work from a node. A trial that was faster fails a check of its own
    (`search.node_check.check_here`) and is tried again elsewhere.

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
        self._known = set(known)
        self._held: list[Any] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work, name="nodes", daemon=True)

    def __enter__(self) -> "NodeWatch":
        self._needs.write_token()
        self._thread.start()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._over.set()
        self._thread.join(timeout=_LEAVE_S)
        with suppress(Exception):  # the cluster may be gone
            self._let_go(self._held)
        self._needs.remove_token()

    def _work(self) -> None:
        while not self._over.wait(_LOOK_S):
            with suppress(Exception):  # the cluster is going, which Tune will say
                self._look()

    def _look(self) -> None:
        there = set(trial_nodes(self._demand))
        gone, new = self._known - there, there - self._known
        self._known = there
        for node in gone:
            self._say(f"{node.name} is gone: its trials go on elsewhere from their last rung")
        for node in new:
            self._check(node)

    def _check(self, node: Node) -> None:
        hold = self._keep_off(node)
        try:
            survey([node])
            check_access([node], self._needs)
        except BrokenEnvironmentError as error:
            if not self._over.is_set():  # else the sweep ended meanwhile, and took its token away
                self._say(f"a node joined that gets no trials: {str(error).partition(': ')[2]}")
        else:
            self._say(f"{node.name} joined")
            self._let_go(hold)

    def _keep_off(self, node: Node) -> list[Any]:
        """Take a node's free room, and more of it as it becomes free."""
        import ray

        here = [{"ray.io/node-id": node.node_id}]
        groups = [
            ray.util.placement_group([self._demand.per_device], bundle_label_selector=here)
            for _ in range(node.devices(self._demand))
        ]
        self._held += groups
        return groups

    def _let_go(self, groups: list[Any]) -> None:
        import ray

        for group in groups:
            ray.util.remove_placement_group(group)
        self._held = [group for group in self._held if group not in groups]


def watch_nodes(cluster: Cluster | None, needs: Needs | None) -> AbstractContextManager[Any]:
    """A `NodeWatch` for a sweep on a cluster; nothing for one on this machine."""
    if cluster is None or needs is None:
        return nullcontext()
    return NodeWatch(cluster.demand, needs, cluster.nodes, cluster.say)
