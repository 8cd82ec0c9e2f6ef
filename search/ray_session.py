"""Starting Ray on this machine, or connecting to a cluster."""

import logging
import os
import secrets
from pathlib import Path

from search.errors import BrokenEnvironmentError
from search.plan import SweepPlan


def configure_ray(*, on_this_machine: bool = True) -> None:
    """Set how Ray behaves in this process and its workers. Call before importing Ray.

    Ray started ``on_this_machine`` answers only who shows a token that is made for it here: loopback keeps other
    machines out, but not other users of this one. A choice of the user's own (RAY_AUTH_MODE) stands.
    """
    if on_this_machine and "RAY_AUTH_MODE" not in os.environ:
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    os.environ.setdefault("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")  # a failed trial has no loss to report
    os.environ.setdefault("TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S", "0")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")


def start_ray(plan: SweepPlan) -> None:
    """Connect to the cluster of ``--address``, or start Ray on this machine, on loopback and without dashboard.

    Raises:
        BrokenEnvironmentError: Ray does not start or the cluster does not answer.
    """
    configure_ray(on_this_machine=plan.config.address is None)
    import ray

    if ray.is_initialized():
        return
    for name in ("ray", "ray.tune"):
        logging.getLogger(name).setLevel(
            logging.CRITICAL
        )  # trial errors are in the journal and on the screen
    address = plan.config.address
    try:
        if address:
            ray.init(address=address, log_to_driver=False, runtime_env={"py_modules": _packages()})
        else:
            ray.init(
                address="local",  # else Ray joins whatever cluster was started on this machine before
                num_cpus=plan.machine.concurrent if plan.machine.device == "cpu" else None,
                include_dashboard=False,
                log_to_driver=False,
                _node_ip_address="127.0.0.1",
                configure_logging=False,
            )
    except Exception as error:
        raise BrokenEnvironmentError(
            f"Ray does not start ({str(error).splitlines()[0]}): lorafront doctor"
        ) from error


def _packages() -> list[str]:
    """The three packages' folders, which Ray ships to the cluster's nodes."""
    root = Path(__file__).resolve().parent.parent
    return [str(root / name) for name in ("search", "trainables", "analysis")]
