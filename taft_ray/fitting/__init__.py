"""Fitting Δw on prepared pictures: ridge by conjugate gradients, the paper's recipe by Adam, and private descent.

Names are looked up when they are first used: a process that only asks for an option must not wait seconds for torch.
"""

from typing import TYPE_CHECKING

from taft_ray.lazy import attributes

if TYPE_CHECKING:
    from taft_ray.fitting.clipping import margin
    from taft_ray.fitting.config import LOSSES, SOLVERS, FitConfig
    from taft_ray.fitting.loss import Loss
    from taft_ray.fitting.private import Noise, PrivateDescent, PrivateRecipe, Sampling, private_descent
    from taft_ray.fitting.ridge import certified_distance
    from taft_ray.fitting.solvers import FitReport, FittedDelta, fit, fit_many

__all__ = [
    "LOSSES",
    "SOLVERS",
    "FitConfig",
    "FitReport",
    "FittedDelta",
    "Loss",
    "Noise",
    "PrivateDescent",
    "PrivateRecipe",
    "Sampling",
    "certified_distance",
    "fit",
    "fit_many",
    "margin",
    "private_descent",
]

_WHERE = {
    "taft_ray.fitting.config": (
        "FitConfig",
        "LOSSES",
        "SOLVERS",
    ),
    "taft_ray.fitting.solvers": (
        "FitReport",
        "FittedDelta",
        "fit",
        "fit_many",
    ),
    "taft_ray.fitting.clipping": ("margin",),
    "taft_ray.fitting.loss": ("Loss",),
    "taft_ray.fitting.private": (
        "Noise",
        "PrivateDescent",
        "PrivateRecipe",
        "Sampling",
        "private_descent",
    ),
    "taft_ray.fitting.ridge": ("certified_distance",),
}


__getattr__ = attributes(__name__, _WHERE)
