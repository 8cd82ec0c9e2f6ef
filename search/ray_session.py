"""Starting Ray on this machine, or connecting to a cluster."""

import logging
import os
import secrets
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from search.devices import ray_cpus
from search.environment import LOOPBACK_ONLY
from search.errors import BrokenEnvironmentError, InputError, LorafrontError

if TYPE_CHECKING:
    from search.plan import SweepPlan

_ANSWER_S = 10.0
_PRELOADED = (
    "trainables.lean_imports",
    "trainables.trial",
    "trainables.worker",
    "colossalai.booster",
    "transformers.models.llama.modeling_llama",
)


def configure_ray(*, on_this_machine: bool = True) -> None:
    """Set how Ray behaves in this process and its workers. Call before importing Ray.

    Ray started ``on_this_machine`` answers only who shows a token that is made for it here: loopback keeps other
    machines out, but not other users of this one. A choice of the user's own (RAY_AUTH_MODE) stands.
    """
    if on_this_machine and "RAY_AUTH_MODE" not in os.environ:
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    if not on_this_machine and os.environ.get(LOOPBACK_ONLY) == "0":
        del os.environ[LOOPBACK_ONLY]
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"  # `search.interrupts` takes it
    os.environ.setdefault("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")  # a failed trial has no loss to report
    os.environ.setdefault("TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S", "0")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    # Tune would start one worker after the other, and show a cluster's autoscaler one that waits for a node at a time.
    os.environ.setdefault("TUNE_MAX_PENDING_TRIALS_PG", "1000")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")


def connect(address: str, say: Callable[[str], None]) -> None:
    """Connect to a running cluster, to whose nodes Ray ships the three packages.

    Raises:
        InputError: the address is none.
        BrokenEnvironmentError: the cluster does not answer, or not to us.
    """
    configure_ray(on_this_machine=False)
    import ray
    from ray._raylet import AuthenticationMode, get_authentication_mode

    _quiet_ray()
    if ray.is_initialized():
        return
    environment = {"py_modules": _packages(), "excludes": ["**/__pycache__"]}
    try:
        _check_answers(address)  # Ray itself would try for minutes, and then end this process
        ray.init(address=address, log_to_driver=False, configure_logging=False, runtime_env=environment)
    except Exception as error:
        if isinstance(error, LorafrontError):
            raise
        reason = " ".join(str(error).split())
        raise BrokenEnvironmentError(f"cannot connect to the Ray cluster at {address}: {reason}") from error
    if get_authentication_mode() != AuthenticationMode.TOKEN:
        say(
            "note: this cluster asks for no token: whoever reaches its ports can run code on it (RAY_AUTH_MODE=token)"
        )


def _check_answers(address: str) -> None:
    """Make sure that ``address`` is of the form HOST:PORT, or ``auto``, and that somebody listens there."""
    from ray._private.services import canonicalize_bootstrap_address_or_die

    found = address
    if address == "auto":
        try:
            found = canonicalize_bootstrap_address_or_die(address)
        except ConnectionError as error:
            raise BrokenEnvironmentError(
                "--address auto: no Ray cluster was started on this machine"
            ) from error
    host, _, port = found.rpartition(":")
    if not host or not port.isdecimal() or "/" in host:
        raise InputError(
            f"--address {address!r} is neither auto nor HOST:PORT; run the sweep on a node of the cluster"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_S).close()
    except (OSError, OverflowError) as error:
        raise BrokenEnvironmentError(f"cannot connect to the Ray cluster at {found}: {error}") from error


def start_ray(plan: "SweepPlan") -> None:
    """Start Ray on this machine, on loopback and without dashboard, unless a cluster was connected to.

    Raises:
        BrokenEnvironmentError: Ray does not start.
    """
    configure_ray(on_this_machine=plan.config.address is None)
    import ray

    _quiet_ray()
    if ray.is_initialized():
        return
    devices = plan.config.execution.devices_per_trial
    on_cpu = plan.machine.device == "cpu"
    try:
        ray.init(
            address="local",  # else Ray joins whatever cluster was started on this machine before
            num_cpus=ray_cpus(plan.machine.concurrent, devices) if on_cpu else None,
            include_dashboard=False,
            log_to_driver=False,
            _node_ip_address="127.0.0.1",
            configure_logging=False,
            # Ray starts a process per core at once; on a machine with GPUs those are many more than trials.
            _system_config={"preload_python_modules": list(_PRELOADED)} if on_cpu else None,
        )
    except Exception as error:
        raise BrokenEnvironmentError(
            f"Ray does not start ({str(error).splitlines()[0]}): lorafront doctor"
        ) from error


def _quiet_ray() -> None:
    """Errors of trials are in the journal and on the screen."""
    for name in ("ray", "ray.tune"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def _packages() -> list[str]:
    """The three packages' folders, which Ray ships to the cluster's nodes."""
    root = Path(__file__).resolve().parent.parent
    return [str(root / name) for name in ("search", "trainables", "analysis")]
