"""Checking a cluster's nodes from the driver, before the first trial: software, storage, base model."""

import shutil
import uuid
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from analysis.records import RunPaths
from search.cluster import Capacity, Cluster, Demand, Node, await_node, cluster_demand
from search.errors import BrokenEnvironmentError
from search.node_check import Needs, NodeFacts, find_lacking, installed_versions, look_around
from search.units import counted

if TYPE_CHECKING:
    from search.config import SweepConfig
    from search.plan import SweepPlan


def on_nodes(nodes: Iterable[Node], function: Callable[..., Any], *arguments: Any) -> dict[Node, Any]:
    """What ``function`` returns on every node, all at once; a `RayError` where it could not be run there.

    A node that dies meanwhile is left out. Takes no cores, so that it does not wait for trials.
    """
    import ray
    from ray.exceptions import RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    remote, answers = ray.remote(function), {}
    started = {
        node: remote.options(
            num_cpus=0,
            max_retries=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node.node_id, soft=False),
        ).remote(*arguments)
        for node in nodes
    }
    for node, reference in started.items():
        try:
            answers[node] = ray.get(reference)
        except RayError as error:
            answers[node] = error
    alive = {each["NodeID"] for each in ray.nodes() if each["Alive"]}
    return {node: answer for node, answer in answers.items() if node.node_id in alive}


def survey(nodes: Sequence[Node]) -> dict[Node, NodeFacts]:
    """The facts of the nodes.

    Raises:
        BrokenEnvironmentError: the first nodes that cannot import what a trial needs, or have other versions.
    """
    facts = on_nodes(nodes, look_around)
    _refuse({node: _software_problems(answer) for node, answer in facts.items()})
    return facts


def check_access(nodes: Sequence[Node], needs: Needs) -> None:
    """Make sure that the nodes see the run folder and have the base model, which they fetch where they can.

    Raises:
        BrokenEnvironmentError: naming the nodes, and what each lacks.
    """
    answers = on_nodes(nodes, find_lacking, needs)
    _refuse({node: _words(answer) for node, answer in answers.items()})


def _software_problems(answer: Any) -> list[str]:
    if not isinstance(answer, NodeFacts):
        return _words(answer)
    if answer.problem is not None:
        return [f"software: {answer.problem}"]
    here = installed_versions()
    return [f"{n} {here[n]} (it has {v})" for n, v in answer.versions.items() if v != here[n]]


def _words(answer: Any) -> list[str]:
    """What a node lacks by its answer, or by the error that came instead."""
    if isinstance(answer, list):
        return answer
    lines = [line.strip() for line in str(answer).splitlines() if line.strip()]
    return [f"software: {lines[-1] if lines else type(answer).__name__}"]


def _refuse(lacking: dict[Node, list[str]]) -> None:
    bad = [f"{node.name} lacks {'; '.join(words)}" for node, words in lacking.items() if words]
    if bad:
        raise BrokenEnvironmentError("not every node of the cluster can run trials: " + ", and ".join(bad))


def join_cluster(config: "SweepConfig", say: Callable[[str], None]) -> Cluster:
    """Look over the cluster that Ray is connected to; waits for its first node that can run a trial.

    Raises:
        BrokenEnvironmentError: there is none, or a node's software is not this one's.
    """
    execution = config.execution
    demand = cluster_demand(execution.devices_per_trial, execution.threads)
    facts = survey(await_node(demand, say))
    gpus = [name for each in facts.values() for name in each.gpus]
    kind = f"{len(gpus)} x {gpus[0]}" if demand.gpus and gpus else f"{demand.describe()} a trial"
    return Cluster(
        demand,
        Capacity(demand, config.trials, config.concurrent),
        tuple(facts),
        f"{counted(len(facts), 'node')} of the cluster at {config.address}, {kind}",
        min(_device_memory(node, each, demand) for node, each in facts.items()),
        say,
    )


def _device_memory(node: Node, facts: NodeFacts, demand: Demand) -> int:
    """What one device of a trial can have on a node."""
    return (
        min(facts.gpu_memory_bytes, default=0) if demand.gpus else facts.memory_bytes // node.devices(demand)
    )


def sweep_needs(plan: "SweepPlan", paths: RunPaths) -> Needs | None:
    """What trials of a sweep need of a cluster's node; None for a sweep on this machine."""
    if plan.machine.cluster is None:
        return None
    return Needs(
        str(paths.root.resolve()), uuid.uuid4().hex, plan.base_model_source, plan.config.base_model_sha256
    )


def check_run_folder(plan: "SweepPlan", paths: RunPaths) -> None:
    """Make sure that the cluster's nodes see a run folder and have the base model. A folder made for that goes again.

    Raises:
        BrokenEnvironmentError: naming the nodes, and what each lacks.
    """
    cluster, needs = plan.machine.cluster, sweep_needs(plan, paths)
    if cluster is None or needs is None:
        return
    needs.write_token()
    try:
        check_access(cluster.nodes, needs)
    except BrokenEnvironmentError:
        if not paths.trials_jsonl.exists():  # nothing was run: the next try can have the name
            shutil.rmtree(paths.root)
        raise
    finally:
        needs.remove_token()
