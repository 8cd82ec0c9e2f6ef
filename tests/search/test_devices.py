from typing import Any

import pytest

from search.config import SweepConfig, resolve_config
from search.devices import check_devices, check_sharing, ray_cpus
from search.errors import InputError
from trainables.worker_group import bundles


def config(**settings: Any) -> SweepConfig:
    overrides = [f"{name.replace('__', '.')}={value}" for name, value in settings.items()]
    return resolve_config("llama3-8b", overrides=overrides)


def sharing(devices: int, **settings: Any) -> SweepConfig:
    return config(execution__devices_per_trial=devices, **settings)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"space__batch_size": "[8, 6]"}, "space.batch_size: 4 devices cannot share 6 examples"),
        ({"space__batch_size": "{low: 8, high: 16, step: 2}"}, "cannot share 10 examples"),
        ({"space__batch_size": 3}, "cannot share 3 examples"),
        ({"baseline__enabled": "true", "baseline__batch_size": 6}, "baseline.batch_size: .* 6 examples"),
        ({"execution__plugin": "hybrid"}, "plugin 'hybrid' on several devices"),
    ],
)
def test_what_devices_cannot_share_is_one_line(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words) as raised:
        check_sharing(sharing(4, **settings))
    assert "\n" not in str(raised.value)
    check_sharing(sharing(1, **settings))


def test_equal_shares_are_fine() -> None:
    check_sharing(sharing(4))  # the profile's 4, 8, 16, 32, and no baseline
    check_sharing(sharing(4, space__batch_size="{low: 4, high: 16, step: 4}"))
    check_sharing(sharing(4, baseline__batch_size=6))  # which is not run


@pytest.mark.parametrize(
    ("gpus", "cores", "words"),
    [(2, 64, "4: this machine has 2 GPUs"), (1, 64, "has 1 GPU$"), (0, 3, "has 3 CPU cores")],
)
def test_more_devices_than_there_are_is_one_line(gpus: int, cores: int, words: str) -> None:
    with pytest.raises(InputError, match=words):
        check_devices(sharing(4), gpus, cores)


def test_as_many_devices_as_there_are_or_a_cluster_s_are_fine() -> None:
    check_devices(sharing(4), 4, 1)
    check_devices(sharing(4), 0, 4)
    check_devices(config(), 0, 1)
    check_devices(sharing(4, address="auto"), 0, 1)


@pytest.mark.parametrize("devices", [1, 2, 8])
@pytest.mark.parametrize("concurrent", [1, 2, 30])
def test_ray_runs_so_many_trials_and_not_one_more(concurrent: int, devices: int) -> None:
    per_trial = 1 if devices == 1 else sum(bundle["CPU"] for bundle in bundles(devices, gpu=False))
    assert concurrent * per_trial <= ray_cpus(concurrent, devices) < (concurrent + 1) * per_trial
