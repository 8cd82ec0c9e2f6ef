"""`report.html`: one file that opens offline, with everything in it, and `front.png` beside it on request."""

import json
from pathlib import Path
from typing import Any

from analysis.confirmed import against_full_rows, confirmed_rows
from analysis.figures import report_figures
from analysis.files import write_atomically
from analysis.headline import claims, recommended
from analysis.memory_error import memory_rows
from analysis.report_execution import execution_groups, plugins_differ
from analysis.report_table import rows_left_out, table_columns, table_rows
from analysis.report_view import (
    commands,
    measured_rows,
    selection_text,
    settings_rows,
    status_counts,
    sweep_rows,
)
from analysis.results import Run
from analysis.text import short_label

_HERE = Path(__file__).parent


def write_report(run: Run, path: Path) -> None:
    """Write the HTML report of a run, finished or not, atomically.

    Everything that users name (run, trials, data, errors) is escaped, also inside the figures.

    Raises:
        OSError: the folder cannot be written to.
    """
    write_atomically(path, render_report(run))


def render_report(run: Run) -> str:
    """The report's HTML: about 5 MB, of which plotly.js is 4.8 MB, so that it needs no network."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from plotly.offline import get_plotlyjs

    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2").render(**_context(run), plotly_js=get_plotlyjs())


def _context(run: Run) -> dict[str, Any]:
    budget = run.config.get("memory_budget")
    figures = report_figures(run.front, budget if isinstance(budget, int) else None)
    best = recommended(run.front)
    return {
        "front": run.front,
        "claims": claims(run.front, run.full_trial),
        "best": best,
        "best_settings": settings_rows(best) if best else [],
        "best_measured": measured_rows(best) if best else [],
        "selection": selection_text(run),
        "status_counts": status_counts(run),
        "sweep_rows": sweep_rows(run),
        "columns": [short_label(key) for key in table_columns(run)],
        "rows": table_rows(run),
        "rows_left_out": rows_left_out(run),
        "confirmed": confirmed_rows(run.front),
        "against_full": against_full_rows(run.front),
        "execution_groups": execution_groups(run),
        "plugins_differ": plugins_differ(run),
        "commands": commands(run),
        "memory_rows": memory_rows(run.front),
        # Plain data: the template's `tojson` escapes what could close a <script> element.
        "figures": {name: json.loads(figure.to_json()) for name, figure in figures.items()},
    }
