from pathlib import Path
from typing import Any

import pytest

from search.cluster import Capacity, Demand, Node, alive_nodes, count_trials
from search.cluster_check import _software_problems
from search.errors import BrokenEnvironmentError
from search.node_check import Needs, NodeFacts, check_here, find_lacking, installed_versions
from search.slots import LimitedSearcher
from search.stateless_searcher import StatelessSearcher
from tests.tiny import tiny_llama


def node(number: int, **resources: float) -> Node:
    return Node(f"{number:032x}", f"10.0.0.{number}", resources)


GPUS = Demand(gpus=1)


@pytest.mark.parametrize(
    ("nodes", "demand", "trials"),
    [
        ([], GPUS, 0),
        ([node(1, CPU=4)], GPUS, 0),
        ([node(1, CPU=4), node(2, CPU=8, GPU=4)], GPUS, 4),
        ([node(1, CPU=2, GPU=4)], GPUS, 2),  # every trial takes a core, too
        ([node(1, CPU=8, GPU=3), node(2, CPU=8, GPU=3)], Demand(gpus=1, devices=2), 3),
        ([node(1, CPU=7), node(2, CPU=3)], Demand(cpus=4), 1),
    ],
)
def test_how_many_trials_fit(nodes: list[Node], demand: Demand, trials: int) -> None:
    assert count_trials(nodes, demand) == trials


def test_dead_nodes_do_not_count() -> None:
    listed = [
        {"NodeID": "a", "NodeManagerAddress": "10.0.0.1", "Resources": {"CPU": 1.0}, "Alive": alive}
        for alive in (True, False)
    ]
    assert len(alive_nodes(listed)) == 1


def test_capacity_follows_the_gpus_and_asks_for_a_quarter_of_the_trials(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    nodes: list[Node] = []
    capacity = Capacity(GPUS, 40, nodes=lambda: nodes)
    assert capacity() == 10  # nothing there yet: so many ask an autoscaler for machines
    nodes += [node(n, CPU=8, GPU=8) for n in range(2)]
    now[0] += 60
    assert capacity() == 16
    nodes += [node(n, CPU=8, GPU=8) for n in range(2, 9)]
    now[0] += 60
    assert capacity() == 40  # no more than there are trials
    del nodes[1:]
    now[0] += 60
    assert capacity() == 10
    assert Capacity(GPUS, 40, wanted=3, nodes=lambda: nodes)() == 3
    assert Capacity(Demand(), 8, nodes=lambda: [node(1, CPU=64)])() == 2
    assert Capacity(Demand(), 1)() == 1


def facts(**changes: Any) -> NodeFacts:
    known: dict[str, Any] = {
        "versions": installed_versions(),
        "gpus": (),
        "gpu_memory_bytes": (),
        "memory_bytes": 1,
    }
    return NodeFacts(**(known | {"problem": None} | changes))


def test_software_that_differs_is_named_with_both_versions() -> None:
    here = installed_versions()
    assert _software_problems(facts()) == []
    assert _software_problems(facts(versions=here | {"torch": "2.4.0"})) == [
        f"torch {here['torch']} (it has 2.4.0)"
    ]
    assert _software_problems(facts(problem="ImportError: no libcuda")) == [
        "software: ImportError: no libcuda"
    ]
    assert _software_problems(RuntimeError("trace\nlast words")) == ["software: last words"]


@pytest.fixture
def needs(tmp_path: Path) -> Needs:
    (tmp_path / "run").mkdir()
    found = Needs(str(tmp_path / "run"), "token", str(tiny_llama(tmp_path / "model")), None)
    found.write_token()
    return found


def test_a_node_with_everything_lacks_nothing(needs: Needs) -> None:
    assert find_lacking(needs) == []
    check_here(needs)
    needs.remove_token()
    assert list(Path(needs.folder).iterdir()) == []


def test_what_a_node_lacks_is_said(needs: Needs, tmp_path: Path) -> None:
    (Path(needs.folder) / ".storage-check").write_text("of another sweep, on a disk of this node")
    (tmp_path / "model" / "config.json").unlink()
    with pytest.raises(BrokenEnvironmentError) as error:
        check_here(needs)
    assert f"storage: it does not see {needs.folder}; base model: " in str(error.value)


class Given(StatelessSearcher):
    def suggest(self, trial_id: str) -> Any:
        return {"spec": trial_id}


def test_limited_searchers_follow_a_limit_that_changes() -> None:
    limit = 2
    searcher = LimitedSearcher(Given(), lambda: limit)
    assert [searcher.suggest(name) is not None for name in "abc"] == [True, True, False]
    limit = 3
    assert searcher.suggest("c") is not None
    limit = 1
    searcher.on_trial_complete("a")
    assert searcher.suggest("d") is None
    searcher.on_trial_complete("b", error=True)
    searcher.on_trial_complete("c")
    assert searcher.suggest("d") is not None
