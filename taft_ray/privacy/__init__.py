"""What an attacker could tell of a sample from the models: membership inference as a test. No torch, no ray, no files."""

from taft_ray.privacy.attack import NO_SHARD, POWER_NEEDED, Samples, check, judge
from taft_ray.privacy.membership import auc_interval, permutation_test, placements, reference_needed

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
