import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from analysis.records import Baseline, Front, Headline, RungResult, RunPaths, TrialRecord
from search.tracking import CLOSING_SECONDS, SECONDS_PER_RECORD, SETTLE_SECONDS, Tracker, local_tracking
from search.tracking_client import describe, import_mlflow, mlflow_client
from search.tracking_store import Point, RunStore

CONFIG = {"rank": 8, "alpha": 16.0, "targets": "all-linear"}
TAGS = {"size": "smollm2-135m", "version.torch": "2.5.1", "git_commit": "abc"}


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with MLflow's schema, which takes seconds to create."""
    path = tmp_path_factory.mktemp("schema") / "mlflow.db"
    mlflow_client(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def paths(tmp_path: Path, empty_database: Path) -> RunPaths:
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    return RunPaths(tmp_path)


def tracker(paths: RunPaths, **params: Any) -> Tracker:
    uri, artifact_root = local_tracking(paths)
    started = Tracker(uri, artifact_root=artifact_root, experiment="lorafront")
    started.start_sweep("key-1", "my-sweep", {"trials": 4, "space": {"rank": [4, 8]}, **params}, TAGS)
    return started


def trial(trial_id: str, *steps: int, **fields: Any) -> TrialRecord:
    rungs = [
        RungResult(examples_seen=n, eval_loss=5 - n / 48, eval_loss_stderr=0.1, train_seconds=n / 10)
        for n in steps
    ]
    measured = {"peak_memory_bytes": 2**30, "trainable_parameters": 1000} if steps else {}
    return TrialRecord(
        trial_id=trial_id,
        config=dict(CONFIG),
        rungs=rungs,
        examples_seen=max(steps, default=0),
        **{**measured, **fields},
    )


def front_of(*trials: TrialRecord, finished: bool = True) -> Front:
    return Front(
        schema=1,
        name="my-sweep",
        size="smollm2-135m",
        created="2026-11-01T00:00:00+00:00",
        finished=finished,
        reference_point={"eval_loss": 5.0, "peak_memory_bytes": 2**31},
        hypervolume=12.5,
        baseline=Baseline(eval_loss=3.0, peak_memory_bytes=2**31, train_seconds=9, tokens_per_second=200),
        headline=Headline(retention=0.9, memory_ratio=0.5, speedup=2.0, trial_id="t1"),
        trials=list(trials),
    )


def runs_of(paths: RunPaths) -> dict[str, Any]:
    """All runs of the experiment by name; fails if two have the same one."""
    client = mlflow_client(local_tracking(paths)[0])
    experiment = client.get_experiment_by_name("lorafront")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    by_name = {run.info.run_name: run for run in runs}
    assert len(by_name) == len(runs)
    return by_name


def steps_of(paths: RunPaths, run: Any, metric: str) -> list[int]:
    history = mlflow_client(local_tracking(paths)[0]).get_metric_history(run.info.run_id, metric)
    return [point.step for point in history]


def artifacts_of(paths: RunPaths, run: Any, folder: str | None = None) -> list[str]:
    artifacts = mlflow_client(local_tracking(paths)[0]).list_artifacts(run.info.run_id, folder)
    return [artifact.path for artifact in artifacts]


def wait_until(condition: Callable[[], Any], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def test_a_sweep_is_one_parent_run_with_a_nested_run_per_trial(paths: RunPaths) -> None:
    tracking = tracker(paths)
    tracking.update(trial("t1"))
    tracking.update(trial("t1", 16))
    tracking.update(trial("t1", 16, 48, status="completed"))
    tracking.update(trial("t2", 16, status="stopped"))
    tracking.update(trial("t3", status="failed", error="loss became NaN"))
    tracking.update(trial("t4", status="infeasible", predicted_memory_bytes=2**34))
    assert tracking.close() == []

    runs = runs_of(paths)
    assert set(runs) == {"my-sweep", "t1", "t2", "t3", "t4"}
    parent = runs.pop("my-sweep")
    assert parent.data.params == {"trials": "4", "space.rank": "[4, 8]"}
    for trial_id, run in runs.items():
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert run.data.tags["lorafront.trial_id"] == trial_id
        assert run.data.tags["lorafront.run_key"] == "key-1"
        assert run.data.tags.items() >= TAGS.items()
        assert run.data.params == {"rank": "8", "alpha": "16.0", "targets": "all-linear", "seed": "0"}
    statuses = {name: (run.data.tags["status"], run.info.status) for name, run in runs.items()}
    assert statuses == {
        "t1": ("completed", "FINISHED"),
        "t2": ("stopped", "FINISHED"),
        "t3": ("failed", "FAILED"),
        "t4": ("infeasible", "FAILED"),
    }
    assert runs["t3"].data.tags["error"] == "loss became NaN"
    assert runs["t4"].data.metrics == {"predicted_memory_bytes": 2**34}


def test_a_run_says_from_the_beginning_that_it_is_not_on_the_front(paths: RunPaths) -> None:
    tracking = tracker(paths)
    tracking.update(trial("t1", 16, status="stopped"))
    assert tracking.close() == []
    assert runs_of(paths)["t1"].data.tags["on_front"] == "false"


def test_metrics_are_logged_once_with_the_examples_seen_as_step(paths: RunPaths) -> None:
    tracking = tracker(paths)
    for steps in ([16], [16, 48], [16, 48], [16, 48, 144]):
        tracking.update(trial("t1", *steps))
        wait_until(lambda: not tracking._jobs)  # otherwise a newer state replaces a waiting one
    assert tracking.close() == []

    run = runs_of(paths)["t1"]
    for metric in ("eval_loss", "eval_loss_stderr", "train_seconds"):
        assert steps_of(paths, run, metric) == [16, 48, 144]
    assert run.data.metrics["eval_loss"] == pytest.approx(2.0)
    assert steps_of(paths, run, "peak_memory_bytes") == [16]
    assert "train_loss" not in run.data.metrics
    assert "test_loss" not in run.data.metrics


def test_finish_records_the_front_its_files_and_its_members(paths: RunPaths, tmp_path: Path) -> None:
    report, preset = tmp_path / "report.html", tmp_path / "exported"
    report.write_text("<html>")
    preset.mkdir()
    (preset / "preset.yaml").write_text("size: smollm2-135m")
    member = trial("t1", 16, status="completed", on_front=True)
    dominated = trial("t2", 16, status="completed")

    tracking = tracker(paths)
    for record in (member, dominated, trial("full", 16, kind="full", status="completed")):
        tracking.update(record)
    tracking.finish(front_of(member, dominated), [report], {"t1": preset})
    assert tracking.close() == []

    runs = runs_of(paths)
    parent = runs["my-sweep"]
    assert parent.info.status == "FINISHED"
    expected = {"hypervolume": 12.5, "retention": 0.9, "memory_ratio": 0.5, "speedup": 2.0}
    assert parent.data.metrics.items() >= {**expected, "trials_completed": 2, "trials_failed": 0}.items()
    assert artifacts_of(paths, parent) == ["report.html"]
    assert artifacts_of(paths, runs["t1"], "preset") == ["preset/preset.yaml"]
    assert (paths.mlartifacts / runs["t1"].info.run_id / "artifacts/preset/preset.yaml").is_file()
    on_front = {name: runs[name].data.tags["on_front"] for name in ("t1", "t2", "full")}
    assert on_front == {"t1": "true", "t2": "false", "full": "false"}


def test_an_interrupted_sweep_is_killed_and_resumes_in_the_same_runs(paths: RunPaths) -> None:
    done, running = trial("t1", 16, status="completed"), trial("t2", 16)
    first = tracker(paths)
    first.update(done)
    first.update(running)
    first.finish(front_of(done, running, finished=False), [], {})
    assert first.close() == []
    before = runs_of(paths)
    assert {name: run.info.status for name, run in before.items()} == {
        "my-sweep": "KILLED",
        "t1": "FINISHED",
        "t2": "KILLED",
    }

    second = tracker(paths, trials=8)  # a param that changed: the first value stays
    second.update(done)
    second.update(trial("t2", 16, 48))
    wait_until(lambda: second.run_id("t2") and not second._jobs)
    assert runs_of(paths)["my-sweep"].info.status == "RUNNING"
    second.update(trial("t2", 16, 48, 144, status="completed"))
    second.finish(front_of(done, trial("t2", 144, status="completed")), [], {})
    assert second.close() == []

    after = runs_of(paths)
    assert {name: run.info.run_id for name, run in after.items()} == {
        name: run.info.run_id for name, run in before.items()
    }
    assert {run.info.status for run in after.values()} == {"FINISHED"}
    assert after["my-sweep"].data.params["trials"] == "4"
    assert steps_of(paths, after["t1"], "eval_loss") == [16]
    assert steps_of(paths, after["t2"], "eval_loss") == [16, 48, 144]


def test_runs_that_a_hanging_server_created_without_being_heard_are_put_away(paths: RunPaths) -> None:
    first = tracker(paths)
    first.update(trial("t1", 16))
    assert first.close() == []
    before = runs_of(paths)
    client = mlflow_client(local_tracking(paths)[0])
    for run in before.values():
        tags = {key: value for key, value in run.data.tags.items() if key.startswith("lorafront.")}
        ghost = client.create_run(run.info.experiment_id, start_time=1, tags=tags, run_name=run.info.run_name)
        assert ghost.info.start_time < run.info.start_time
    second = tracker(paths)
    second.update(trial("t1", 16, 48))
    assert second.close() == []
    after = runs_of(paths)  # fails if two have one name
    assert {n: run.info.run_id for n, run in after.items()} == {
        n: run.info.run_id for n, run in before.items()
    }
    assert steps_of(paths, after["t1"], "eval_loss") == [16, 48]


def test_a_point_that_is_sent_again_is_stored_once(paths: RunPaths) -> None:
    uri, artifact_root = local_tracking(paths)
    store = RunStore(uri, artifact_root, "lorafront")
    run = store.create("t1", {})
    for _ in range(2):  # the second time as if the first had not been answered
        store.write(run, points=[Point("eval_loss", 2.5, 16)])
        time.sleep(0.01)
    assert [point.step for point in store.client.get_metric_history(run.run_id, "eval_loss")] == [16]


def test_run_ids_are_known_once_the_run_exists(paths: RunPaths) -> None:
    tracking = tracker(paths)
    assert tracking.run_id("t1") is None
    tracking.update(trial("t1"))
    wait_until(lambda: tracking.run_id("t1"))
    tracking.close()
    assert tracking.run_id("t1") == runs_of(paths)["t1"].info.run_id


def test_a_record_that_changes_after_the_call_is_logged_as_it_was(paths: RunPaths) -> None:
    tracking = tracker(paths)
    record = trial("t1", 16)
    tracking.update(record)
    record.config["rank"] = 999
    tracking.close()
    assert runs_of(paths)["t1"].data.params["rank"] == "8"


def test_many_settings_and_awkward_names_fit_into_params(paths: RunPaths) -> None:
    tracking = tracker(paths, many={f"käse #{i}": i for i in range(250)}, long="x" * 10_000, none=None)
    assert tracking.close() == []
    params = runs_of(paths)["my-sweep"].data.params
    assert sum(name.startswith("many.") for name in params) == 250
    assert "none" not in params


@pytest.mark.parametrize("name", ["a b+c@é#&中文'1", "100%25?q=1"])
def test_the_local_store_takes_any_folder_name(name: str, tmp_path: Path, empty_database: Path) -> None:
    folder = tmp_path / name
    folder.mkdir()
    shutil.copy(empty_database, folder / "mlflow.db")
    report = folder / "front.png"
    report.write_bytes(b"png")
    paths = RunPaths(folder)
    tracking = tracker(paths)
    tracking.finish(front_of(), [report], {})
    assert tracking.close() == []
    assert len(list(paths.mlartifacts.rglob("front.png"))) == 1
    if "%" not in name:  # MLflow makes an empty folder named like the quoted path
        assert list(tmp_path.iterdir()) == [folder]


def test_a_missing_file_is_a_problem_but_the_rest_is_recorded(paths: RunPaths, tmp_path: Path) -> None:
    tracking = tracker(paths)
    tracking.finish(front_of(), [tmp_path / "report.html"], {"t9": tmp_path})
    problems = tracking.close()
    assert problems == [
        "MLflow: report.html was not there to be stored",
        f"MLflow: trial t9 has no run to store {tmp_path.name} with",
    ]
    assert runs_of(paths)["my-sweep"].info.status == "FINISHED"


def test_a_dead_server_gives_problems_without_credentials_and_no_exception() -> None:
    tracking = Tracker("http://ann:secret@127.0.0.1:9", artifact_root=None, experiment="lorafront")
    started = time.monotonic()
    tracking.start_sweep("key-1", "my-sweep", {}, {})
    for steps in ([], [16], [16, 48]):
        tracking.update(trial("t1", *steps))
    tracking.finish(front_of(trial("t1")), [], {})
    assert time.monotonic() - started < 0.5
    assert tracking.run_id("t1") is None
    problems = tracking.close()
    assert time.monotonic() - started < 20
    assert any("refused" in problem for problem in problems)
    assert any("were not written to http://***@127.0.0.1:9" in problem for problem in problems)
    assert not any("secret" in problem for problem in problems)


class FlakyStore:
    """Stands for a server: refuses the first ``failures`` calls, answers none while ``silent`` is set."""

    def __init__(self, failures: int = 0) -> None:
        self.failures = failures
        self.silent = threading.Event()
        self.written: list[str] = []

    def write_trial(self, record: TrialRecord, on_front: bool | None = None) -> None:
        while self.silent.is_set():
            time.sleep(0.01)
        if self.failures > 0:
            self.failures -= 1
            raise ConnectionError("server is away")
        self.written.append(f"{record.trial_id}@{record.examples_seen}")

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def forget(self) -> None: ...

    def run_id(self, trial_id: str) -> str | None:
        return None


@pytest.fixture
def flaky(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Tracker, FlakyStore]]:
    store = FlakyStore()
    monkeypatch.setattr("search.tracking.SweepRuns", lambda *args: store)
    monkeypatch.setattr("search.tracking._FIRST_WAIT_SECONDS", 0.01)
    tracking = Tracker("http://server", artifact_root=None, experiment="lorafront")
    tracking.start_sweep("key-1", "my-sweep", {}, {})
    yield tracking, store
    store.silent.clear()
    tracking.close()


def test_what_happens_during_an_outage_is_recorded_after_it(flaky: tuple[Tracker, FlakyStore]) -> None:
    tracking, store = flaky
    store.failures = 4
    tracking.update(trial("t1", 16))
    tracking.update(trial("t2", 16))
    wait_until(lambda: len(store.written) == 2)
    assert tracking.close() == []
    assert sorted(store.written) == ["t1@16", "t2@16"]


def test_calls_never_wait_and_only_the_newest_waiting_state_is_written(
    flaky: tuple[Tracker, FlakyStore],
) -> None:
    tracking, store = flaky
    store.silent.set()
    tracking.update(trial("t0"))
    wait_until(lambda: not tracking._jobs)  # t0's write hangs now
    started = time.monotonic()
    for examples in range(1, 101):
        tracking.update(trial("t1", examples))
    assert time.monotonic() - started < 0.5
    store.silent.clear()
    assert tracking.close() == []
    assert store.written == ["t0@0", "t1@100"]


def test_states_that_follow_each_other_at_once_are_written_as_one_and_soon(
    flaky: tuple[Tracker, FlakyStore],
) -> None:
    tracking, store = flaky
    started = time.monotonic()
    tracking.update(trial("t1", 16))
    tracking.update(trial("t1", 16, 48))
    wait_until(lambda: store.written)
    assert time.monotonic() - started >= SETTLE_SECONDS
    assert tracking.close() == []
    assert store.written == ["t1@48"]


def test_the_end_of_a_sweep_is_waited_for_longer_the_more_is_left(flaky: tuple[Tracker, FlakyStore]) -> None:
    tracking, store = flaky
    store.silent.set()
    waited: list[float | None] = []
    tracking._thread.join = waited.append  # type: ignore[method-assign]
    for number in range(200):
        tracking.update(trial(f"t{number}"))
    tracking.close()
    del tracking._thread.join
    assert waited[0] is not None
    assert waited[0] > CLOSING_SECONDS + 199 * SECONDS_PER_RECORD


def test_close_does_not_wait_longer_than_told(flaky: tuple[Tracker, FlakyStore]) -> None:
    tracking, store = flaky
    store.silent.set()
    tracking.update(trial("t1", 16))
    started = time.monotonic()
    problems = tracking.close(timeout_seconds=0.1)
    assert time.monotonic() - started < 1
    assert problems == ["MLflow: 2 records were not written to http://server"]


def test_a_refused_record_is_not_tried_again_and_blocks_no_other(
    flaky: tuple[Tracker, FlakyStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    tracking, store = flaky
    attempts: list[str] = []

    def refuse(record: TrialRecord, on_front: bool | None = None) -> None:
        attempts.append(record.trial_id)
        raise ValueError("bad value\nmore text")

    monkeypatch.setattr(store, "write_trial", refuse)
    tracking.update(trial("t1"))
    tracking.update(trial("t2"))
    assert tracking.close() == ["MLflow: bad value (2 records)"]
    assert attempts == ["t1", "t2"]


def test_close_without_a_sweep_has_nothing_to_say() -> None:
    assert Tracker("http://server", artifact_root=None, experiment="lorafront").close() == []


def test_errors_become_one_short_line_with_the_cause() -> None:
    text = (
        "API request to http://ann:pw@host:9/api failed with exception HTTPConnectionPool(host='host'): "
        "Max retries exceeded with url: /api (Caused by NewConnectionError(\"HTTPConnection(host='host'): "
        'Failed to establish a new connection: [Errno 111] Connection refused"))'
    )
    assert describe(OSError(text)) == "Failed to establish a new connection: [Errno 111] Connection refused"
    assert describe(RuntimeError()) == "RuntimeError"
    assert len(describe(RuntimeError("word " * 200))) <= 200


def test_mlflow_does_not_phone_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_DISABLE_TELEMETRY", raising=False)
    import_mlflow()
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
