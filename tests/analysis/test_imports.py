"""Reading a run needs neither torch nor Ray, and costs little before it does something."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import analysis

MODULES = sorted(path.stem for path in Path(analysis.__file__).parent.glob("*.py") if path.stem != "__init__")
ALLOWED_FROM_SEARCH = {"search.errors", "search.units", "search.yaml_io"}
HEAVY = (
    "torch",
    "ray",
    "transformers",
    "mlflow",
    "optuna",
    "plotly",
    "matplotlib",
    "sklearn",
    "jinja2",
    "rich",
)


def imported(module: str) -> set[str]:
    tree = ast.parse((Path(analysis.__file__).parent / f"{module}.py").read_text(encoding="utf-8"))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    return names | {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}


@pytest.mark.parametrize("module", MODULES)
def test_analysis_depends_on_nothing_that_runs_trials(module: str) -> None:
    for name in imported(module):
        assert name.split(".")[0] not in {"trainables", "torch", "ray"}
        assert not name.startswith("search") or name in ALLOWED_FROM_SEARCH


def test_importing_everything_loads_no_heavy_library() -> None:
    imports = "; ".join(f"import analysis.{module}" for module in MODULES)
    check = f"{imports}; import sys; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", check], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


def test_a_report_is_written_without_torch_and_ray(run_dir: Path) -> None:
    code = f"""
import sys


class Absent:
    # As if these were not installed. None in sys.modules would not do: scipy looks for torch there.
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "ray", "trainables"):
            raise ModuleNotFoundError(name)


sys.meta_path.insert(0, Absent())
from pathlib import Path
from analysis.export import export_preset
from analysis.figures import write_front_png
from analysis.presets import pick
from analysis.report import write_report
from analysis.results import load_run
run = load_run({str(run_dir)!r})
write_report(run, run.paths.report_html)
write_front_png(run.front, run.paths.front_png)
export_preset(run, pick(run.front, "knee"), run.paths.root / "preset")
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    assert (run_dir / "report.html").stat().st_size > 1_000_000
    assert (run_dir / "front.png").is_file()
    assert (run_dir / "preset" / "preset.yaml").is_file()
