"""Signatures, privacy accounting and noise: pure functions of bytes and numbers. No torch, no ray, no storage.

Names are looked up when they are first used: a process that only asks for an option must not wait for what checks signatures.
"""

from typing import TYPE_CHECKING

from taft_ray.lazy import attributes

if TYPE_CHECKING:
    from taft_ray.privacy.accounting import delta_of, epsilon_of, mu_of, noise_multiplier, total
    from taft_ray.privacy.batches import BatchStream
    from taft_ray.privacy.noise import GaussianStream
    from taft_ray.privacy.noise_keys import commitment, new_key, stream_seed
    from taft_ray.privacy.sampled import epsilon_of_sampled, sampled_noise_multiplier
    from taft_ray.privacy.signing import ALGORITHM, PublicKey, Signature, SigningKey, read_public_key, read_signing_key

__all__ = [
    "ALGORITHM",
    "BatchStream",
    "GaussianStream",
    "PublicKey",
    "Signature",
    "SigningKey",
    "commitment",
    "delta_of",
    "epsilon_of",
    "epsilon_of_sampled",
    "mu_of",
    "new_key",
    "noise_multiplier",
    "read_public_key",
    "read_signing_key",
    "sampled_noise_multiplier",
    "stream_seed",
    "total",
]

_WHERE = {
    "taft_ray.privacy.accounting": ("delta_of", "epsilon_of", "mu_of", "noise_multiplier", "total"),
    "taft_ray.privacy.batches": ("BatchStream",),
    "taft_ray.privacy.noise": ("GaussianStream",),
    "taft_ray.privacy.noise_keys": ("commitment", "new_key", "stream_seed"),
    "taft_ray.privacy.sampled": ("epsilon_of_sampled", "sampled_noise_multiplier"),
    "taft_ray.privacy.signing": (
        "ALGORITHM",
        "PublicKey",
        "Signature",
        "SigningKey",
        "read_public_key",
        "read_signing_key",
    ),
}


__getattr__ = attributes(__name__, _WHERE)
