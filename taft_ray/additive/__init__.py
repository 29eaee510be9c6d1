"""The additive model: ridge on fixed vectors of a network, as a function of exact sums over pictures.

docs/explanation/additive.md has the equations and what was measured. Names are looked up when they are first used, as in `tangent`.
"""

from typing import TYPE_CHECKING

from taft_ray.lazy import attributes

if TYPE_CHECKING:
    from taft_ray.additive.centring import Centre, released
    from taft_ray.additive.exact_sums import Sums
    from taft_ray.additive.linear import HeadOnRows, RowsModel, Whitened
    from taft_ray.additive.model import AdditiveModel, AdditiveNetwork
    from taft_ray.additive.noisy_sums import NoisySums
    from taft_ray.additive.options import GRID
    from taft_ray.additive.probes import pink_pictures
    from taft_ray.additive.projection import Projection
    from taft_ray.additive.ridge import Score, Solution, leave_one_out, solve
    from taft_ray.additive.rows import rows_of, to_rows
    from taft_ray.additive.settings import Policy, Settings, SiteGroup
    from taft_ray.additive.sites import Group, Sites, site_vectors, sites_of
    from taft_ray.additive.tuning import Tuner, column_scales
    from taft_ray.additive.whitening import whitening_of

__all__ = [
    "GRID",
    "AdditiveModel",
    "AdditiveNetwork",
    "Centre",
    "Group",
    "HeadOnRows",
    "NoisySums",
    "Policy",
    "Projection",
    "RowsModel",
    "Score",
    "Settings",
    "SiteGroup",
    "Sites",
    "Solution",
    "Sums",
    "Tuner",
    "Whitened",
    "column_scales",
    "leave_one_out",
    "pink_pictures",
    "released",
    "rows_of",
    "site_vectors",
    "sites_of",
    "solve",
    "to_rows",
    "whitening_of",
]

_WHERE = {
    "taft_ray.additive.centring": ("Centre", "released"),
    "taft_ray.additive.exact_sums": ("Sums",),
    "taft_ray.additive.linear": ("HeadOnRows", "RowsModel", "Whitened"),
    "taft_ray.additive.model": ("AdditiveModel", "AdditiveNetwork"),
    "taft_ray.additive.noisy_sums": ("NoisySums",),
    "taft_ray.additive.whitening": ("whitening_of",),
    "taft_ray.additive.probes": ("pink_pictures",),
    "taft_ray.additive.projection": ("Projection",),
    "taft_ray.additive.options": ("GRID",),
    "taft_ray.additive.ridge": ("Score", "Solution", "leave_one_out", "solve"),
    "taft_ray.additive.rows": ("rows_of", "to_rows"),
    "taft_ray.additive.settings": ("Policy", "Settings", "SiteGroup"),
    "taft_ray.additive.tuning": ("Tuner", "column_scales"),
    "taft_ray.additive.sites": ("Group", "Sites", "site_vectors", "sites_of"),
}


__getattr__ = attributes(__name__, _WHERE)
