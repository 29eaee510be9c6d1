"""Pages for people, from templates: a run's report, a certificate, a sweep, several runs side by side. No ray, no storage."""

from taft_ray.pages.certificate_page import certificate_page
from taft_ray.pages.comparison_page import comparison_page
from taft_ray.pages.figures.paper import picture
from taft_ray.pages.report_page import report_page
from taft_ray.pages.sweep_page import sweep_page

__all__ = ["certificate_page", "comparison_page", "picture", "report_page", "sweep_page"]
