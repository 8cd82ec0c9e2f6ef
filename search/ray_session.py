"""Starting Ray on this machine, or connecting to a cluster."""

import logging
import os
from pathlib import Path

from search.devices import ray_cpus
from search.errors import BrokenEnvironmentError
from search.plan import SweepPlan


def configure_ray() -> None:
    """Set how Ray behaves in this process and its workers. Call before importing Ray."""
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"  # `search.interrupts` takes it
    os.environ.setdefault("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")  # a failed trial has no loss to report
    os.environ.setdefault("TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S", "0")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")


def start_ray(plan: SweepPlan) -> None:
    """Connect to the cluster of ``--address``, or start Ray on this machine, on loopback and without dashboard.

    Raises:
        BrokenEnvironmentError: Ray does not start or the cluster does not answer.
    """
    configure_ray()
    import ray

    if ray.is_initialized():
        return
    for name in ("ray", "ray.tune"):
        logging.getLogger(name).setLevel(
            logging.CRITICAL
        )  # trial errors are in the journal and on the screen
    address, devices = plan.config.address, plan.config.execution.devices_per_trial
    try:
        if address:
            ray.init(address=address, log_to_driver=False, runtime_env={"py_modules": _packages()})
        else:
            ray.init(
                address="local",  # else Ray joins whatever cluster was started on this machine before
                num_cpus=ray_cpus(plan.machine.concurrent, devices) if plan.machine.device == "cpu" else None,
                include_dashboard=False,
                log_to_driver=False,
                _node_ip_address="127.0.0.1",
                configure_logging=False,
                # Ray takes its only node for dead after 15 missed answers in 25 s of a busy machine, and ends us with it.
                _system_config={"health_check_failure_threshold": 60},
            )
    except Exception as error:
        raise BrokenEnvironmentError(
            f"Ray does not start ({str(error).splitlines()[0]}): lorafront doctor"
        ) from error


def _packages() -> list[str]:
    """The three packages' folders, which Ray ships to the cluster's nodes."""
    root = Path(__file__).resolve().parent.parent
    return [str(root / name) for name in ("search", "trainables", "analysis")]
