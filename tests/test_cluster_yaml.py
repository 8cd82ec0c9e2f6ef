"""`cluster.yaml` against Ray's own schema and loader, and what makes it safe to start."""

import copy
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from search.installation import COLOSSALAI

ROOT = Path(__file__).parents[1]
PATH = ROOT / "cluster.yaml"
PACKAGES = ("search", "trainables", "analysis")


@pytest.fixture
def cluster() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(PATH.read_text(encoding="utf-8"))
    return content


@pytest.fixture
def prepared(cluster: dict[str, Any]) -> dict[str, Any]:
    """The file as `ray up` takes it: defaults of the provider filled in, setup commands merged."""
    from ray.autoscaler._private.util import prepare_config

    config: dict[str, Any] = prepare_config(copy.deepcopy(cluster))
    return config


def all_commands(config: dict[str, Any]) -> list[str]:
    return [text for name, texts in config.items() if name.endswith("_commands") for text in texts]


def start_options(config: dict[str, Any], kind: str) -> dict[str, Any]:
    """The options of a node's `ray start`, parsed by Ray's own command line."""
    from ray.scripts.scripts import start

    command = config[f"{kind}_start_ray_commands"][-1]
    arguments = shlex.split(command.partition(" start ")[2])
    options: dict[str, Any] = start.make_context("start", arguments).params
    return options


def test_ray_accepts_the_file(prepared: dict[str, Any]) -> None:
    from ray.autoscaler._private.util import validate_config

    validate_config(prepared)


def test_ray_would_refuse_a_misspelt_key(cluster: dict[str, Any]) -> None:
    from jsonschema import ValidationError
    from ray.autoscaler._private.util import prepare_config, validate_config

    with pytest.raises(ValidationError, match="max_wrokers"):
        validate_config(prepare_config(cluster | {"max_wrokers": 4}))


def test_workers_with_gpus_come_and_go_and_the_head_has_none(prepared: dict[str, Any]) -> None:
    nodes = prepared["available_node_types"]
    head, worker = nodes[prepared["head_node_type"]], nodes["gpu-worker"]
    assert head["resources"] == {"CPU": 0}
    assert head["max_workers"] == 0
    assert worker["min_workers"] == 0
    assert 0 < worker["max_workers"] <= prepared["max_workers"]
    assert 0 < prepared["idle_timeout_minutes"] <= 30
    assert prepared["provider"]["cache_stopped_nodes"] is False


def test_nothing_listens_to_the_outside(cluster: dict[str, Any], prepared: dict[str, Any]) -> None:
    anywhere = re.compile(r"(?<![0-9])0\.0\.0\.0|::/0")
    assert not anywhere.search(PATH.read_text(encoding="utf-8"))
    assert not any(anywhere.search(command) for command in all_commands(prepared))
    assert "IpPermissions" not in cluster["provider"]["security_group"]
    options = start_options(prepared, "head")
    assert options["include_dashboard"] is False
    assert options["dashboard_host"] == "127.0.0.1"


@pytest.mark.parametrize("kind", ["head", "worker"])
def test_nodes_start_authenticated_and_quiet(prepared: dict[str, Any], kind: str) -> None:
    command = prepared[f"{kind}_start_ray_commands"][-1]
    assert " RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0 " in command
    options = start_options(prepared, kind)
    assert options["head"] is (kind == "head")
    assert (options["address"] is None) is (kind == "head")
    assert any("RAY_USAGE_STATS_ENABLED=0" in text for text in prepared[f"{kind}_setup_commands"])
    assert prepared["file_mounts"]["/home/ubuntu/.ray/auth_token"] == "~/.ray/auth_token"


def test_the_head_scales_from_the_file_that_ray_uploads(prepared: dict[str, Any]) -> None:
    assert start_options(prepared, "head")["autoscaling_config"] == "~/ray_bootstrap_config.yaml"


def test_the_environment_is_the_pinned_one(prepared: dict[str, Any]) -> None:
    for kind in ("head", "worker"):
        installs = [text for text in prepared[f"{kind}_setup_commands"] if " -c " in text]
        assert installs == [
            "~/lorafront-env/bin/pip install --quiet -c ~/lorafront/constraints.txt ~/lorafront && "
            f"~/lorafront-env/bin/pip install --quiet --no-deps {COLOSSALAI}"
        ]


def test_what_the_nodes_install_from_is_the_whole_package(cluster: dict[str, Any]) -> None:
    mounts = {remote: local for remote, local in cluster["file_mounts"].items() if "/lorafront/" in remote}
    assert {remote: f"/home/ubuntu/lorafront/{local}" for remote, local in mounts.items()} == {
        remote: remote for remote in mounts
    }
    assert set(PACKAGES) <= set(mounts.values())
    assert not [local for local in mounts.values() if not (ROOT / local).exists()]


def test_no_secret_stands_in_the_file() -> None:
    text = PATH.read_text(encoding="utf-8")
    assert not re.search(r"hf_[A-Za-z0-9]{8}|AKIA[A-Z0-9]{8}|AWS_SECRET|PRIVATE KEY|HF_TOKEN=", text)


def test_run_folders_lie_where_every_node_sees_them(prepared: dict[str, Any]) -> None:
    assert "--out /shared/runs" in PATH.read_text(encoding="utf-8")
    assert any("exportfs" in text for text in prepared["head_setup_commands"])
    assert any("$RAY_HEAD_IP:/shared /shared" in text for text in prepared["worker_start_ray_commands"])


def test_the_commands_in_the_comments_are_rays_and_ours() -> None:
    from ray.scripts.scripts import cli as ray
    from typer.main import get_command

    from search.cli import app

    lines = re.findall(r"^#   (ray .*?)(?:  +#.*)?$", PATH.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(lines) == 5
    for _, name, *arguments in map(shlex.split, lines):
        ray.commands[name].make_context(name, arguments)
    ours = shlex.split(next(line for line in lines if "lorafront" in line))[-1]
    program, command, *arguments = shlex.split(ours)
    assert program == "lorafront"
    parsed = get_command(app).commands[command].make_context(command, arguments).params  # type: ignore[attr-defined]
    assert parsed["address"] == "auto"


@pytest.mark.parametrize("kind", ["head", "worker"])
def test_commands_are_shell(prepared: dict[str, Any], kind: str) -> None:
    for command in prepared[f"{kind}_setup_commands"] + prepared[f"{kind}_start_ray_commands"]:
        assert "\n" not in command
        subprocess.run(["bash", "-n", "-c", command], check=True)


def test_the_lines_for_machines_of_your_own_are_accepted_too(cluster: dict[str, Any]) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    comment = PATH.read_text(encoding="utf-8").rpartition("# Machines of your own")[2]
    lines = [line.removeprefix("#") for line in comment.splitlines() if re.match(r"#(\w|  )", line)]
    replaced = ("provider", "head_node_type", "available_node_types", "max_workers")
    on_premise = {name: value for name, value in cluster.items() if name not in replaced}
    config = prepare_config(on_premise | yaml.safe_load("\n".join(lines)))
    validate_config(config)
    assert config["provider"]["type"] == "local"
    assert config["max_workers"] == 2
