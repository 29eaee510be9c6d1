"""The mathematics of a tangent model: linearise, and the passes through it. Needs torch and timm only.

Names are looked up when they are first used: a process that only asks for an option must not wait seconds for torch.
"""

from typing import TYPE_CHECKING

from taft_ray.lazy import attributes

if TYPE_CHECKING:
    from taft_ray.tangent.delta import Delta
    from taft_ray.tangent.model import TangentModel, linearize
    from taft_ray.tangent.network import between
    from taft_ray.tangent.options import PREPARED_BUDGET, TRAINABLE
    from taft_ray.tangent.prepared import Pictures, Prepared, Recomputed, batches, concatenate, prepare_pictures
    from taft_ray.tangent.serving import ComposedModel

__all__ = [
    "PREPARED_BUDGET",
    "TRAINABLE",
    "ComposedModel",
    "Delta",
    "Pictures",
    "Prepared",
    "Recomputed",
    "TangentModel",
    "batches",
    "between",
    "concatenate",
    "linearize",
    "prepare_pictures",
]

_WHERE = {
    "taft_ray.tangent.delta": ("Delta",),
    "taft_ray.tangent.model": (
        "TangentModel",
        "linearize",
    ),
    "taft_ray.tangent.network": ("between",),
    "taft_ray.tangent.options": (
        "PREPARED_BUDGET",
        "TRAINABLE",
    ),
    "taft_ray.tangent.prepared": (
        "Pictures",
        "Prepared",
        "Recomputed",
        "batches",
        "concatenate",
        "prepare_pictures",
    ),
    "taft_ray.tangent.serving": ("ComposedModel",),
}


__getattr__ = attributes(__name__, _WHERE)
