from pathlib import Path
from types import SimpleNamespace

import pytest

from search.trial_errors import describe_failure


@pytest.mark.parametrize(
    ("line", "is_dead"),
    [
        (
            "The actor 2220b4cb is unavailable: The actor is temporarily unavailable: RpcError: Socket closed",
            True,
        ),
        ("BlockingIOError: [Errno 11] Resource temporarily unavailable", False),
    ],
)
def test_a_worker_that_cannot_be_reached_is_dead_and_a_full_machine_is_not(
    tmp_path: Path, line: str, is_dead: bool
) -> None:
    (tmp_path / "error.txt").write_text(f"Failure # 1 (occurred at noon)\n{line}\n")
    trial = SimpleNamespace(
        error_file=str(tmp_path / "error.txt"), run_metadata=SimpleNamespace(num_failures=1)
    )
    assert ("worker process died" in describe_failure(trial)) is is_dead
