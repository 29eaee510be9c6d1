"""From a model's name and weights to a tangent model, and what a picture must look like to enter it."""

from taft_ray.models.architecture import FOLDER
from taft_ray.models.load import LoadedModel, load_model
from taft_ray.models.preprocess import Preprocess

__all__ = ["FOLDER", "LoadedModel", "Preprocess", "load_model"]
