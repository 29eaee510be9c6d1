"""The mathematics: linearise, tangent passes, fit, compose. Needs torch and timm only."""

from taft_ray.tangent.compose import (
    COMPOSITIONS,
    DEFAULT_EPSILON,
    Sums,
    compose,
    shard_terms,
    statistics_for,
    terms_to_delta,
)
from taft_ray.tangent.delta import Delta
from taft_ray.tangent.fit import FitConfig, FitReport, FittedDelta, fit, fit_many
from taft_ray.tangent.joint import JOINT_PENALTY, check_joint
from taft_ray.tangent.loss import Loss
from taft_ray.tangent.model import TangentModel, linearize
from taft_ray.tangent.network import between
from taft_ray.tangent.prepared import Pictures, Prepared, Recomputed, batches, concatenate, prepare_pictures
from taft_ray.tangent.ridge import certified_distance
from taft_ray.tangent.serving import ComposedModel

__all__ = [
    "COMPOSITIONS",
    "DEFAULT_EPSILON",
    "JOINT_PENALTY",
    "ComposedModel",
    "Delta",
    "FitConfig",
    "FitReport",
    "FittedDelta",
    "Loss",
    "Pictures",
    "Prepared",
    "Recomputed",
    "Sums",
    "TangentModel",
    "batches",
    "between",
    "certified_distance",
    "check_joint",
    "compose",
    "concatenate",
    "fit",
    "fit_many",
    "linearize",
    "prepare_pictures",
    "shard_terms",
    "statistics_for",
    "terms_to_delta",
]
