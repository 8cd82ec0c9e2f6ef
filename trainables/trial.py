"""The Ray Tune trainable: between Tune's calls and the worker that does the job."""

import gc
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray import tune

from search.errors import LorafrontError, OutOfMemoryError, StorageError, WorkerLostError
from search.storage_errors import storage_problem
from trainables.group_member import first_line
from trainables.settings import ExecutionSettings, TrialSpec

if TYPE_CHECKING:
    from search.node_check import Needs
    from trainables.data import PreparedData
    from trainables.worker import Worker
    from trainables.worker_group import WorkerGroup


def make_worker(data: "PreparedData", execution: ExecutionSettings) -> "Worker | WorkerGroup":
    """What trains: this process itself, or one process per device."""
    if execution.devices_per_trial > 1:
        from trainables.worker_group import WorkerGroup

        return WorkerGroup(data, execution)
    from trainables.worker import Worker

    return Worker(data, execution.threads, execution.eval_batch_size)


class LoraTrial(tune.Trainable):
    """One trial. ``config`` is ``{"spec": TrialSpec as a dictionary}``; a step trains to the next rung.

    Tune keeps the actor between trials (``reuse_actors``), so the worker with its base model stays warm. A trial
    that cannot go on reports that as its last result (``failure``, and ``infeasible`` when memory ran out) instead
    of raising, which would cost the warm worker. Only when a process of a trial on several devices is lost does it
    raise: Tune then gives the trial's placement group back, which the process's node may have left.
    """

    def setup(
        self, config: dict[str, Any], data: "PreparedData | None" = None, needs: "Needs | None" = None
    ) -> None:
        """Start the worker, once per actor, and its first trial. ``needs`` are checked on a cluster's node."""
        from search.environment import quiet_libraries

        quiet_libraries()
        import trainables.lean_imports  # noqa: F401

        if needs is not None:
            from search.node_check import check_here

            check_here(needs)
        spec = TrialSpec.model_validate(config["spec"])
        assert data is not None, "data come through tune.with_parameters"
        self.worker = make_worker(data, spec.execution)
        gc.freeze()  # modules are never garbage: looking for it between two trials takes no time then
        self._begin(spec)

    def _begin(self, spec: TrialSpec) -> None:
        self.spec, self._begun, self._failure = spec, False, ""
        self._checkpoint: Path | None = None

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next trial on the same warm worker."""
        self._begin(TrialSpec.model_validate(new_config["spec"]))
        return True

    def _ensure_begun(self) -> None:
        if self._begun:
            return
        self.worker.begin(self.spec)
        restored = self._checkpoint or (Path(self.spec.resume_from) if self.spec.resume_from else None)
        if restored is not None and (restored / "state.json").exists():
            self.worker.load(restored)
        self._begun = True

    def step(self) -> dict[str, Any]:
        """Train to the next rung and report there."""
        try:
            self._ensure_begun()
            result = self.worker.train_rung()
        except WorkerLostError:
            raise
        except Exception as error:  # whatever it is, this trial is over and the worker can take the next one
            problem = storage_problem(error)
            if problem is not None:  # but for the disk, which fails every trial
                raise StorageError(problem) from error
            own_words = isinstance(error, LorafrontError)
            self._failure = str(error) if own_words else f"{type(error).__name__}: {first_line(error)}"
            infeasible = isinstance(error, OutOfMemoryError)
            return {
                "trial": self.spec.trial_id,
                "failure": self._failure,
                "infeasible": infeasible,
                "done": True,
            }
        return {"trial": self.spec.trial_id, "done": result["finished"], **result}

    def save(self, checkpoint_dir: str | None = None) -> Any:
        """Checkpoint the trial into the run folder.

        Raises:
            StorageError: it cannot be written.
        """
        try:
            return super().save(checkpoint_dir)
        except Exception as error:
            problem = storage_problem(error) or (str(error) if isinstance(error, OSError) else None)
            if problem is not None:
                raise StorageError(problem) from error
            raise

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Write the trial's state; a failed trial has none worth keeping."""
        if not self._failure:
            self.worker.save(Path(checkpoint_dir))

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Go on from a checkpoint folder (pause, or another actor)."""
        self._checkpoint = Path(checkpoint)
        if self._begun:
            self.worker.begin(self.spec)
            self.worker.load(self._checkpoint)

    def cleanup(self) -> None:
        """End the last trial of this actor."""
        self.worker.end()
