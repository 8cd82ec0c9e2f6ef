"""The real command on a real Ray cluster of several nodes: what it refuses, and nodes that come, die and are unfit."""

import json
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import LEARNABLE, LORAFRONT
from tests.integration.ray_nodes import HOST, RAY, RayNodes, own_environment, training_processes

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(not HOST, reason="needs an address other than loopback"),
]
# What a node sees when it has not mounted the folders: its own empty ones.
HIDING = 'for folder in $HIDDEN; do mount -t tmpfs none "$folder" || exit 1; done; exec "$@"'
IN_OWN_WORLD = ["unshare", "--mount", "sh", "-c", HIDING, "sh"]
CAN_HIDE = (
    os.geteuid() == 0 and subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode == 0
)
SWEEP = [
    "sweep",
    "--base-model",
    "model",
    "--data",
    "chat.jsonl",
    "--no-baseline",
    "--confirm",
    "0",
    *LEARNABLE,
]


@pytest.fixture(scope="module")
def nodes(workshop: Path) -> Iterator[RayNodes]:
    (workshop / "shared").mkdir()
    old = workshop / "old" / "search"  # what nodes have of that name does not count: Ray ships ours
    old.mkdir(parents=True)
    (old / "__init__.py").write_text("raise ImportError('a node used its own')")
    with tempfile.TemporaryDirectory(prefix="lf-", dir="/tmp") as folder:
        cluster = RayNodes(Path(folder), own_environment(workshop) | {"PYTHONPATH": str(old.parent)})
        try:
            yield cluster
        finally:
            cluster.close()


def start(nodes: RayNodes, workshop: Path, *arguments: object, **more: str) -> "subprocess.Popen[str]":
    """The command as a user of the cluster runs it."""
    command = [LORAFRONT, *map(str, (*SWEEP, *arguments)), "--address", nodes.address]
    own = {"PYTHONPATH": os.environ.get("PYTHONPATH", ""), **more}
    return subprocess.Popen(
        command,
        cwd=workshop,
        env=nodes.environment | own,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for(what: Callable[[], Any], process: "subprocess.Popen[str] | None" = None) -> None:
    """Wait until something is so; an end of the process first is a failure."""
    while not what():
        assert process is None or process.poll() is None, process.stdout.read()  # type: ignore[union-attr]
        time.sleep(0.2)


def events(run: Path) -> list[dict[str, Any]]:
    """The whole lines of trials.jsonl."""
    file = run / "trials.jsonl"
    lines = file.read_text().split("\n")[:-1] if file.exists() else []
    return [json.loads(line) for line in lines]


def trials_with(run: Path, event: str) -> set[str]:
    return {each["trial"]["trial_id"] for each in events(run) if each["event"] == event}


@pytest.mark.skipif(not CAN_HIDE, reason="needs to be root, to make a node that sees other folders")
def test_a_node_without_storage_or_model_is_named_before_anything_runs(
    nodes: RayNodes, workshop: Path
) -> None:
    unfit = nodes.add(prefix=IN_OWN_WORLD, HIDDEN=f"{workshop}/shared {workshop}/model")
    process = start(nodes, workshop, "--out", "shared/refused")
    printed, _ = process.communicate(timeout=900)
    nodes.kill(unfit)
    assert process.returncode == 2, printed
    line = printed.splitlines()[-1]
    assert line.startswith("error: not every node of the cluster can run trials: ")
    assert HOST in line
    assert f"storage: it does not see {workshop}/shared/refused" in line
    assert f"base model: base model {workshop}/model has no config.json" in line
    assert not (workshop / "shared" / "refused").exists()


def test_a_cluster_that_wants_another_token_is_no_place(nodes: RayNodes, workshop: Path) -> None:
    process = start(nodes, workshop, "--out", "shared/refused", RAY_AUTH_TOKEN="0" * 64)
    printed, _ = process.communicate(timeout=900)
    assert process.returncode == 2, printed
    assert printed.splitlines()[-1].startswith("error: cannot connect to the Ray cluster at ")
    assert not (workshop / "shared" / "refused").exists()


def test_nodes_come_and_die_and_nothing_is_lost(nodes: RayNodes, workshop: Path) -> None:
    """Three trials on two nodes, which are killed between two rungs; one joins, and one that lacks the model."""
    dying, staying = nodes.add(), nodes.add()
    run = workshop / "shared" / "run"
    process = start(
        nodes, workshop, "--out", run, "--trials", 3, "--max-examples", 1350, "--concurrent", 3,
        "--set", "scheduler=fifo", "--set", "sampler=random", "--set", "space.batch_size=8",
    )  # fmt: skip
    wait_for(lambda: len(trials_with(run, "checkpoint")) >= 2 and training_processes(dying), process)
    assert trials_with(run, "ended") == set()
    before = {e["trial"]["trial_id"]: e["trial"]["rungs"] for e in events(run) if e["event"] == "result"}
    nodes.kill(dying)
    wait_for(lambda: training_processes(staying), process)
    for worker in training_processes(staying):  # or all may be done before others have joined
        worker.suspend()
    if CAN_HIDE:
        nodes.add(prefix=IN_OWN_WORLD, HIDDEN=f"{workshop}/model")
    nodes.add()
    nodes.kill(staying)  # now there is the node that joined, or nothing
    printed, _ = process.communicate(timeout=900)
    assert process.returncode == 0, printed
    unfit = re.search(r"a node joined that gets no trials: \S+ \(node \w+\) lacks base model: ", printed)
    assert bool(unfit) == CAN_HIDE, printed
    assert printed.count("is gone: its trials go on elsewhere") == 2
    ended = {e["trial"]["trial_id"]: e["trial"] for e in events(run) if e["event"] == "ended"}
    assert {name: trial["status"] for name, trial in ended.items()} == dict.fromkeys(
        ("t0001", "t0002", "t0003"), "completed"
    )
    for name, trial in ended.items():
        assert [rung["examples_seen"] for rung in trial["rungs"]] == [150, 450, 1350]
        reached = before.get(name, [])
        assert (
            trial["rungs"][: len(reached)] == reached
        )  # what was measured before is neither lost nor run again
        results = [
            e["trial"]["examples_seen"]
            for e in events(run)
            if e["event"] == "result" and e["trial"]["trial_id"] == name
        ]
        assert results.count(150) == 1
    assert not (run / ".storage-check").exists()
    assert left_over(nodes) == []


def left_over(nodes: RayNodes) -> list[str]:
    """What a sweep has left on its cluster, asked from a process of its own: placement groups, requests for machines."""
    question = """
import json, ray
from ray.experimental.internal_kv import _internal_kv_get
ray.init(log_to_driver=False, configure_logging=False)
groups = [name for name, group in ray.util.placement_group_table().items() if group["state"] != "REMOVED"]
print(json.dumps(groups + json.loads(_internal_kv_get(b"autoscaler_resource_request") or b"[]")))
"""
    command = [str(Path(RAY).with_name("python")), "-c", question]
    environment = nodes.environment | {"RAY_ADDRESS": nodes.address}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found: list[str] = json.loads(done.stdout.splitlines()[-1])
    return found
