"""What is written about installing, in the places where it has to be written, agrees."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from search.installation import COLOSSALAI

ROOT = Path(__file__).parents[1]
PYTHONS = ("3.11", "3.12", "3.13")


@pytest.fixture(scope="module")
def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def pinned() -> dict[str, str]:
    """Versions by name, both as constraints.txt has them; a package that has several is no single pin."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    assert len({item.name for item in pins}) == len(pins), "one version for every Python"
    return {item.name.lower(): str(item.specifier).removeprefix("==") for item in pins}


def test_colossalai_is_no_requirement_of_the_wheel(pyproject: dict[str, Any]) -> None:
    project = pyproject["project"]
    extras = [text for texts in project["optional-dependencies"].values() for text in texts]
    declared = [*project["dependencies"], *extras]
    assert not [text for text in declared if Requirement(text).name == "colossalai"]


def test_uv_gets_the_version_that_we_ask_for(pyproject: dict[str, Any]) -> None:
    assert pyproject["dependency-groups"]["booster"] == [COLOSSALAI]
    assert pyproject["tool"]["uv"]["default-groups"] == ["booster"]
    (replaced,) = pyproject["tool"]["uv"]["dependency-metadata"]
    assert f"{replaced['name']}=={replaced['version']}" == COLOSSALAI
    ours = {Requirement(text).name for text in pyproject["project"]["dependencies"]}
    assert set(replaced["requires-dist"]) <= ours, "pip has to get them, too"


@pytest.mark.parametrize("name", ["README.md", ".ci/run", "cluster.yaml"])
def test_whoever_installs_with_pip_installs_colossalai(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    installs = [
        line for line in text.splitlines() if re.search(r"pip['\"]? install .*constraints\.txt", line)
    ]
    assert installs
    assert f"--no-deps {COLOSSALAI}" in text
    assert set(re.findall(r"colossalai==[\d.]+\d", text)) == {COLOSSALAI}


def test_every_requirement_is_pinned_within_its_bounds(pyproject: dict[str, Any]) -> None:
    project, pins = pyproject["project"], pinned()
    declared = [*project["dependencies"], *project["optional-dependencies"]["dev"], COLOSSALAI]
    for item in map(Requirement, declared):
        assert item.specifier.contains(pins[item.name.lower()]), item


def test_the_pythons_are_said_alike(pyproject: dict[str, Any]) -> None:
    project = pyproject["project"]
    assert project["requires-python"] == ">=3.11,<3.14"
    assert tuple(re.findall(r"Python :: (3\.\d+)", "\n".join(project["classifiers"]))) == PYTHONS
    assert "Python 3.11, 3.12 or 3.13" in (ROOT / "README.md").read_text(encoding="utf-8")
    runner = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert all(f"python{version}" in runner for version in PYTHONS)
