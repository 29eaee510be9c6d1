"""Results drawn from measurements: the numbers of a report, how well predictions agree with labels, the paper's tables. Pure functions."""

from taft_ray.evaluation.comparison import compared
from taft_ray.evaluation.paper_table import as_csv, markdown
from taft_ray.evaluation.report import summarise
from taft_ray.evaluation.sweep_table import sweep_csv

__all__ = [
    "as_csv",
    "compared",
    "markdown",
    "summarise",
    "sweep_csv",
]
