import os

import pytest

from search.environment import LOOPBACK_ONLY, disable_telemetry
from search.ray_session import configure_ray

NAMES = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", LOOPBACK_ONLY)


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without these variables, and with whatever is set in a test taken back."""
    monkeypatch.setattr(
        os, "environ", {name: value for name, value in os.environ.items() if name not in NAMES}
    )


def test_ray_on_this_machine_gets_a_token_of_its_own() -> None:
    configure_ray()
    assert os.environ["RAY_AUTH_MODE"] == "token"
    first = os.environ["RAY_AUTH_TOKEN"]
    assert len(first) == 64
    configure_ray()
    assert os.environ["RAY_AUTH_TOKEN"] == first  # once per process
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
        del os.environ[name]
    configure_ray()
    assert os.environ["RAY_AUTH_TOKEN"] != first


def test_a_users_own_choice_stands() -> None:
    os.environ["RAY_AUTH_MODE"] = "disabled"
    configure_ray()
    assert "RAY_AUTH_TOKEN" not in os.environ
    assert os.environ["RAY_AUTH_MODE"] == "disabled"


def test_a_cluster_is_neither_given_a_token_nor_kept_on_loopback() -> None:
    disable_telemetry()
    configure_ray(on_this_machine=False)
    assert not set(NAMES) & set(os.environ)
