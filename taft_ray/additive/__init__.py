"""The additive model: ridge on fixed vectors of a network, as a function of exact sums over pictures.

docs/additive.md has the equations and what was measured. Names are looked up when they are first used, as in `tangent`.
"""

from typing import TYPE_CHECKING

from taft_ray.lazy import attributes

if TYPE_CHECKING:
    from taft_ray.additive.exact_sums import Sums
    from taft_ray.additive.model import AdditiveModel, AdditiveNetwork
    from taft_ray.additive.projection import Projection
    from taft_ray.additive.ridge import GRID, Score, Solution, leave_one_out, solve
    from taft_ray.additive.rows import rows_of, to_rows
    from taft_ray.additive.sites import Group, Sites, site_vectors, sites_of

__all__ = [
    "GRID",
    "AdditiveModel",
    "AdditiveNetwork",
    "Group",
    "Projection",
    "Score",
    "Sites",
    "Solution",
    "Sums",
    "leave_one_out",
    "rows_of",
    "site_vectors",
    "sites_of",
    "solve",
    "to_rows",
]

_WHERE = {
    "taft_ray.additive.exact_sums": ("Sums",),
    "taft_ray.additive.model": ("AdditiveModel", "AdditiveNetwork"),
    "taft_ray.additive.projection": ("Projection",),
    "taft_ray.additive.ridge": ("GRID", "Score", "Solution", "leave_one_out", "solve"),
    "taft_ray.additive.rows": ("rows_of", "to_rows"),
    "taft_ray.additive.sites": ("Group", "Sites", "site_vectors", "sites_of"),
}


__getattr__ = attributes(__name__, _WHERE)
