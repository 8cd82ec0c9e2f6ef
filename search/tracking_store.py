"""Runs in an MLflow store: finding them again, and writing only what the store does not hold yet."""

import json
import math
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search.tracking_client import mlflow_client
from search.tracking_schema import create_store

if TYPE_CHECKING:
    from mlflow import MlflowClient

_PARAMS_PER_BATCH = 100  # MLflow's limit for one log_batch call
_RUNS_PER_PAGE = 1000


@dataclass(frozen=True)
class Point:
    """One value of a metric."""

    metric: str
    value: float
    step: int


@dataclass
class StoredRun:
    """What the store holds of a run, as far as it matters to what is still to be written.

    ``metrics`` are the newest values, ``start_ms`` is when the run was created.
    """

    run_id: str
    status: str = "RUNNING"
    start_ms: int = 0
    params: set[str] = field(default_factory=set)
    tags: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)


class RunStore:
    """One experiment of a tracking store. Connects, and creates it, when first asked for something.

    ``artifact_root`` is the folder for a new experiment's artifacts; None leaves the choice to the server.
    """

    def __init__(self, uri: str, artifact_root: Path | None, experiment: str) -> None:
        self._uri, self._artifact_root, self._experiment = uri, artifact_root, experiment
        self._times_ms: dict[tuple[str, Point], int] = {}

    @cached_property
    def client(self) -> "MlflowClient":
        """MLflow's own client."""
        create_store(self._uri, self._artifact_root)
        return mlflow_client(self._uri)

    @cached_property
    def _experiment_id(self) -> str:
        from mlflow.exceptions import MlflowException

        location = self._artifact_root.as_uri() if self._artifact_root else None
        if found := self.client.get_experiment_by_name(self._experiment):
            return str(found.experiment_id)
        try:
            return str(self.client.create_experiment(self._experiment, artifact_location=location))
        except MlflowException:  # another sweep may have been faster
            if found := self.client.get_experiment_by_name(self._experiment):
                return str(found.experiment_id)
            raise

    def find(self, tag: str, value: str) -> Iterator[StoredRun]:
        """The runs that carry a tag. ``value`` must hold no single quote."""
        page_token = None
        while True:
            page = self.client.search_runs(
                [self._experiment_id],
                f"tags.`{tag}` = '{value}'",
                max_results=_RUNS_PER_PAGE,
                page_token=page_token,
            )
            for run in page:
                data = run.data
                info, params = run.info, set(data.params)
                yield StoredRun(
                    info.run_id, info.status, info.start_time or 0, params, data.tags, data.metrics
                )
            page_token = page.token
            if not page_token:
                return

    def create(self, name: str, tags: Mapping[str, str]) -> StoredRun:
        """A new run, RUNNING."""
        run = self.client.create_run(self._experiment_id, tags=dict(tags), run_name=name)
        return StoredRun(run.info.run_id, start_ms=run.info.start_time or 0, tags=dict(tags))

    def delete(self, run: StoredRun) -> None:
        """Put a run into MLflow's trash."""
        self.client.delete_run(run.run_id)

    def steps(self, run: StoredRun, metric: str) -> set[int]:
        """The steps at which a metric is stored."""
        if metric not in run.metrics:
            return set()
        return {point.step for point in self.client.get_metric_history(run.run_id, metric)}

    def write(
        self,
        run: StoredRun,
        *,
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
        points: Sequence[Point] = (),
        status: str | None = None,
    ) -> None:
        """Write every point and what ``run`` has not yet of params, tags and status, the status last."""
        from mlflow.entities import Metric, Param, RunTag

        new_params = [Param(key, value) for key, value in (params or {}).items() if key not in run.params]
        new_tags = {key: value for key, value in (tags or {}).items() if run.tags.get(key) != value}
        metrics = [Metric(p.metric, p.value, self._time_ms(run, p), p.step) for p in points]
        if new_params or new_tags or metrics:
            first, rest = new_params[:_PARAMS_PER_BATCH], new_params[_PARAMS_PER_BATCH:]
            tag_list = [RunTag(key, value) for key, value in new_tags.items()]
            self.client.log_batch(run.run_id, metrics=metrics, params=first, tags=tag_list)
            for start in range(0, len(rest), _PARAMS_PER_BATCH):
                self.client.log_batch(run.run_id, params=rest[start : start + _PARAMS_PER_BATCH])
            run.params.update(param.key for param in new_params)
            run.tags.update(new_tags)
            run.metrics.update({point.metric: point.value for point in points})
        if status and status != run.status:
            self._set_status(run, status)

    def _time_ms(self, run: StoredRun, point: Point) -> int:
        """When a point was first to be written: again the same, it is the same point to MLflow, and stored once.

        A server that hangs may still carry out what we have given up and sent again.
        """
        return self._times_ms.setdefault((run.run_id, point), int(time.time() * 1000))

    def _set_status(self, run: StoredRun, status: str) -> None:
        if status == "RUNNING":
            self.client.update_run(run.run_id, status=status)
        else:
            self.client.set_terminated(run.run_id, status=status)
        run.status = status


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Settings as MLflow params: nested mappings become dotted names, lists JSON, and None is left out.

    >>> flatten({"rank": 8, "space": {"targets": ["mlp"]}, "address": None})
    {'rank': '8', 'space.targets': '["mlp"]'}
    """
    flat: dict[str, str] = {}
    for key, value in values.items():
        name = prefix + re.sub(r"[^\w./ -]", "_", str(key))  # the characters that MLflow allows in names
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{name}.")
        elif isinstance(value, list | tuple):
            flat[name] = json.dumps(value, default=str)
        elif value is not None:
            flat[name] = str(value)
    return flat


def changed_points(run: StoredRun, values: Mapping[str, float | None], step: int) -> list[Point]:
    """Points at ``step`` for the values that differ from the newest stored ones."""
    return [point for point in finite_points(values, step) if run.metrics.get(point.metric) != point.value]


def finite_points(values: Mapping[str, float | None], step: int) -> list[Point]:
    """Points at ``step`` for the values that are there and finite; stores differ in what they make of NaN."""
    present: Iterable[tuple[str, float]] = (
        (name, value) for name, value in values.items() if value is not None
    )
    return [Point(name, float(value), step) for name, value in present if math.isfinite(value)]
