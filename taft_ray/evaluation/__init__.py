"""What measurements say: the report of a run, its figures and pages; the paper's tables. Pure functions; no ray, no storage."""

from taft_ray.evaluation.certificate_page import certificate_page
from taft_ray.evaluation.page import render
from taft_ray.evaluation.paper_figure import picture
from taft_ray.evaluation.paper_table import as_csv, markdown
from taft_ray.evaluation.report import summarise
from taft_ray.evaluation.sweep_page import sweep_csv, sweep_page

__all__ = [
    "as_csv",
    "certificate_page",
    "markdown",
    "picture",
    "render",
    "summarise",
    "sweep_csv",
    "sweep_page",
]
