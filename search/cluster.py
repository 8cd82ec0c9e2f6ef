"""A Ray cluster as a place for trials: which nodes can run one, and how many are to run at once."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from search.errors import BrokenEnvironmentError

_LOOK_AGAIN_S = 2.0
# For a machine to start and install what cluster.yaml installs: about ten minutes, so a shortage may last a while.
_START_S = 1800.0


@dataclass(frozen=True)
class Demand:
    """What one trial asks a cluster for: ``devices`` times so many cores and GPUs."""

    cpus: int = 1
    gpus: int = 0
    devices: int = 1

    @property
    def per_device(self) -> dict[str, float]:
        """One device's share, in Ray's words."""
        return {"CPU": self.cpus, **({"GPU": self.gpus} if self.gpus else {})}

    def describe(self) -> str:
        """For people.

        >>> Demand(cpus=1, gpus=1).describe(), Demand(cpus=4, devices=2).describe()
        ('1 CPU and 1 GPU', '2 times 4 CPU')
        """
        text = " and ".join(f"{amount:g} {name}" for name, amount in self.per_device.items())
        return text if self.devices == 1 else f"{self.devices} times {text}"


@dataclass(frozen=True)
class Node:
    """A node that is alive. ``resources`` are all it has, taken or not."""

    node_id: str
    address: str
    resources: Mapping[str, float] = field(compare=False)

    @property
    def name(self) -> str:
        """What people can tell it by: several nodes may share an address."""
        return f"{self.address} (node {self.node_id[:8]})"

    def devices(self, demand: Demand) -> int:
        """How many devices' shares of a demand fit."""
        return min(int(self.resources.get(name, 0) // n) for name, n in demand.per_device.items())


@dataclass(frozen=True)
class Cluster:
    """A cluster that was joined for a sweep; ``say`` tells the user one line.

    ``capacity`` is how many trials are to go at once, ``nodes`` are those that were there at the start and are checked.
    """

    demand: Demand
    capacity: Callable[[], int]
    nodes: tuple[Node, ...]
    description: str
    memory_bytes: int
    say: Callable[[str], None]


def alive_nodes(listed: Sequence[Mapping[str, Any]] | None = None) -> list[Node]:
    """The cluster's nodes (``listed`` as by `ray.nodes`, which is asked otherwise)."""
    if listed is None:
        import ray

        listed = ray.nodes()
    return [Node(n["NodeID"], n["NodeManagerAddress"], n["Resources"]) for n in listed if n["Alive"]]


def count_trials(nodes: Sequence[Node], demand: Demand) -> int:
    """How many trials fit at once; the devices of one may lie on several nodes."""
    return sum(node.devices(demand) for node in nodes) // demand.devices


def trial_nodes(demand: Demand) -> list[Node]:
    """The nodes that can run a trial, or a device of it."""
    return [node for node in alive_nodes() if node.devices(demand) > 0]


class Capacity:
    """How many trials a sweep has going at once, on nodes or waiting for one: calling it tells, as of now.

    A trial that waits is what an autoscaler sees, and starts a machine for; it is gone with its driver. So a sweep has
    a quarter of its trials going, 2 at least, also while the cluster is smaller: as on one machine, the sampler needs
    results to learn from. GPUs that are there are all used.

    Args:
        demand: of one trial.
        trials: in the whole sweep.
        wanted: the number that the user gave instead.
        nodes: tells which nodes are alive.
    """

    def __init__(
        self,
        demand: Demand,
        trials: int,
        wanted: int | None = None,
        nodes: Callable[[], Sequence[Node]] = alive_nodes,
    ) -> None:
        self._demand, self._trials, self._wanted, self._nodes = demand, trials, wanted, nodes
        self._looked, self._fitting = float("-inf"), 0

    def __call__(self) -> int:
        """The number as of now."""
        if self._wanted is not None:
            return self._wanted
        return min(self._trials, max(2, self._trials // 4, self._all_gpus()))

    def _all_gpus(self) -> int:
        """How many trials the GPUs hold that are there; looked up every other second at most."""
        if self._demand.gpus and time.monotonic() - self._looked > _LOOK_AGAIN_S:
            self._looked, self._fitting = time.monotonic(), count_trials(self._nodes(), self._demand)
        return self._fitting


def await_node(demand: Demand, say: Callable[[str], None]) -> list[Node]:
    """The nodes that can run a trial; asks for one, and waits for it, while there is none.

    Raises:
        BrokenEnvironmentError: none came in time.
    """
    nodes = trial_nodes(demand)
    if nodes:
        return nodes
    import ray

    say(f"waiting for the cluster to start a node with {demand.describe()}; Ctrl-C ends that")
    group = ray.util.placement_group([demand.per_device])  # what its autoscaler sees
    deadline = time.monotonic() + _START_S
    try:
        while not nodes and time.monotonic() < deadline:
            time.sleep(_LOOK_AGAIN_S)
            nodes = trial_nodes(demand)
    finally:
        ray.util.remove_placement_group(group)
    if not nodes:
        raise BrokenEnvironmentError(f"no node of the cluster has {demand.describe()}, and none came")
    return nodes


def cluster_demand(devices: int, threads: int | None) -> Demand:
    """What a trial asks of the cluster that this process has joined: GPUs where a node has some, else cores.

    A cluster at rest, whose head has nothing for trials, is one of GPUs unless ``threads`` are given.
    """
    nodes = alive_nodes()
    has_gpu, has_cpu = (any(n.resources.get(kind, 0) >= 1 for n in nodes) for kind in ("GPU", "CPU"))
    on_gpu = has_gpu or not (has_cpu or threads)
    return Demand(gpus=1, devices=devices) if on_gpu else Demand(cpus=threads or 1, devices=devices)
