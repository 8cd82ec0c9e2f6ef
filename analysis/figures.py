"""All figures of a report, as plotly figures."""

from typing import TYPE_CHECKING

from analysis.figure_curves import learning_curves_figure
from analysis.figure_png import write_front_png
from analysis.figure_quality import quality_memory_figure
from analysis.figure_settings import importance_figure, parallel_coordinates_figure
from analysis.figure_style import has_points
from analysis.importance import hyperparameter_importance
from analysis.records import Front

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

__all__ = [
    "importance_figure",
    "learning_curves_figure",
    "parallel_coordinates_figure",
    "quality_memory_figure",
    "report_figures",
    "write_front_png",
]


def report_figures(front: Front, memory_budget_bytes: int | None = None) -> dict[str, "Figure"]:
    """The figures that the sweep has enough trials for, by name, in the report's order."""
    importances = [hyperparameter_importance(front.trials, "eval_loss")]
    importances.append(hyperparameter_importance(front.trials, "peak_memory_bytes"))
    figures: dict[str, Figure | None] = {
        "quality_memory": quality_memory_figure(front, memory_budget_bytes) if has_points(front) else None,
        "learning_curves": learning_curves_figure(front) if any(t.rungs for t in front.trials) else None,
        "importance": importance_figure(importances) if front.trials else None,
        "parallel_coordinates": parallel_coordinates_figure(front),
    }
    return {name: figure for name, figure in figures.items() if figure is not None}
