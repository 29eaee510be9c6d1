"""What an attacker could tell of a sample, as a test, and signatures: pure functions. No torch, no ray, no storage."""

from taft_ray.privacy.attack import NO_SHARD, POWER_NEEDED, Samples, check, judge
from taft_ray.privacy.membership import auc_interval, permutation_test, placements, reference_needed
from taft_ray.privacy.signing import (
    ALGORITHM,
    PublicKey,
    Signature,
    SigningKey,
    read_public_key,
    read_signing_key,
)

__all__ = [
    "ALGORITHM",
    "NO_SHARD",
    "POWER_NEEDED",
    "PublicKey",
    "Samples",
    "Signature",
    "SigningKey",
    "auc_interval",
    "check",
    "judge",
    "permutation_test",
    "placements",
    "read_public_key",
    "read_signing_key",
    "reference_needed",
]
