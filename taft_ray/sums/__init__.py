"""Exact sums over shards, and the models that are functions of them: mean, Gram and joint composition.

Names are looked up when they are first used: a process that only asks for an option must not wait seconds for torch.
"""

from typing import TYPE_CHECKING

from taft_ray.lazy import attributes

if TYPE_CHECKING:
    from taft_ray.sums.composition import Sums, compose, shard_terms, statistics_for, terms_to_delta
    from taft_ray.sums.joint import check_joint
    from taft_ray.sums.options import COMPOSITIONS, DEFAULT_EPSILON, JOINT_PENALTY
    from taft_ray.sums.totals import Totals

__all__ = [
    "COMPOSITIONS",
    "DEFAULT_EPSILON",
    "JOINT_PENALTY",
    "Sums",
    "Totals",
    "check_joint",
    "compose",
    "shard_terms",
    "statistics_for",
    "terms_to_delta",
]

_WHERE = {
    "taft_ray.sums.options": (
        "COMPOSITIONS",
        "DEFAULT_EPSILON",
        "JOINT_PENALTY",
    ),
    "taft_ray.sums.composition": (
        "Sums",
        "compose",
        "shard_terms",
        "statistics_for",
        "terms_to_delta",
    ),
    "taft_ray.sums.joint": ("check_joint",),
    "taft_ray.sums.totals": ("Totals",),
}


__getattr__ = attributes(__name__, _WHERE)
