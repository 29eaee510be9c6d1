"""What a run's measurements say: the report, its figures and pages. Pure functions; no ray, no storage."""

from taft_ray.evaluation.certificate_page import certificate_page
from taft_ray.evaluation.page import render
from taft_ray.evaluation.report import summarise
from taft_ray.evaluation.sweep_page import sweep_csv, sweep_page

__all__ = ["certificate_page", "render", "summarise", "sweep_csv", "sweep_page"]
