"""Pages for people, from templates: a run's report, a certificate, a sweep, several runs side by side; and live ones. No ray, no storage."""

from typing import TYPE_CHECKING

from taft_ray.lazy import attributes

if TYPE_CHECKING:
    from taft_ray.pages.certificate_page import certificate_page
    from taft_ray.pages.comparison_page import comparison_page
    from taft_ray.pages.figures.paper import picture
    from taft_ray.pages.report_page import report_page
    from taft_ray.pages.sweep_page import sweep_page

__all__ = ["certificate_page", "comparison_page", "picture", "report_page", "sweep_page"]

__getattr__ = attributes(
    __name__,
    {
        "taft_ray.pages.certificate_page": ("certificate_page",),
        "taft_ray.pages.comparison_page": ("comparison_page",),
        "taft_ray.pages.figures.paper": ("picture",),
        "taft_ray.pages.report_page": ("report_page",),
        "taft_ray.pages.sweep_page": ("sweep_page",),
    },
)
