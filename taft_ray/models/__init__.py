"""From a model's name and weights to a tangent model, and what a picture must look like to enter it.

Names are looked up when they are first used: a process that only asks for an option must not wait seconds for torch.
"""

from typing import TYPE_CHECKING

from taft_ray.lazy import attributes

if TYPE_CHECKING:
    from taft_ray.models.load import LoadedModel, load_model
    from taft_ray.models.names import FOLDER, HUB
    from taft_ray.models.preprocess import Preprocess

__all__ = [
    "FOLDER",
    "HUB",
    "LoadedModel",
    "Preprocess",
    "load_model",
]

_WHERE = {
    "taft_ray.models.names": (
        "FOLDER",
        "HUB",
    ),
    "taft_ray.models.load": (
        "LoadedModel",
        "load_model",
    ),
    "taft_ray.models.preprocess": ("Preprocess",),
}


__getattr__ = attributes(__name__, _WHERE)
