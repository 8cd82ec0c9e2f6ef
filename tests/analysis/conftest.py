from pathlib import Path

import pytest

from analysis.results import Run, load_run
from tests.analysis.synthetic import write_run


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A finished run: 16 trials at rungs 16, 48 and 144 (one failed, one infeasible) and a baseline."""
    return write_run(tmp_path / "runs" / "demo")


@pytest.fixture
def run(run_dir: Path) -> Run:
    return load_run(run_dir)
