"""taft_ray: fine-tune linearised vision transformers on shards that can be forgotten exactly.

The mathematics is here, and needs neither ray nor files; runs are made with ``taft-ray`` and ``jobs/``.
"""

from taft_ray.tangent import Delta, FitConfig, Prepared, TangentModel, compose, fit, linearize

__version__ = "0.1.0"

__all__ = ["Delta", "FitConfig", "Prepared", "TangentModel", "compose", "fit", "linearize"]
