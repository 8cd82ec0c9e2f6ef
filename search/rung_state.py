"""A scheduler's rungs as plain data (JSON), and back: numbers come back as they were, to the last bit."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from search.rung import Report, Rung


def rung_state(rung: Rung) -> dict[str, Any]:
    """What a rung knows, in the order in which it came."""
    return {
        "reports": {name: _plain(report) for name, report in rung.reports.items()},
        "promoted": sorted(rung.promoted),
        "nothing": None if rung.nothing is None else _plain(rung.nothing),
    }


def load_rung(rung: Rung, state: Mapping[str, Any]) -> None:
    """Put a rung back where `rung_state` found it."""
    rung.reports = {name: _report(plain) for name, plain in state["reports"].items()}
    rung.promoted = set(state["promoted"])
    rung.forget_order()
    if state["nothing"] is not None:
        rung.compare_with(_report(state["nothing"]))


def _plain(report: Report) -> dict[str, Any]:
    losses = report.example_losses
    return {
        "loss": report.loss,
        "stderr": report.stderr,
        "memory_bytes": report.memory_bytes,
        "example_losses": None if losses is None else losses.tolist(),
    }


def _report(plain: Mapping[str, Any]) -> Report:
    losses = plain["example_losses"]
    return Report(
        plain["loss"], plain["stderr"], plain["memory_bytes"], None if losses is None else np.array(losses)
    )
