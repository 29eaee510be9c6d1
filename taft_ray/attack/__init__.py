"""A test of how much an attacker could tell of a sample: pure functions of numbers. No torch, no ray, no storage."""

from taft_ray.attack.judgement import NO_SHARD, POWER_NEEDED, Samples, check, judge
from taft_ray.attack.membership import auc_interval, permutation_test, placements, reference_needed

__all__ = [
    "NO_SHARD",
    "POWER_NEEDED",
    "Samples",
    "auc_interval",
    "check",
    "judge",
    "permutation_test",
    "placements",
    "reference_needed",
]
