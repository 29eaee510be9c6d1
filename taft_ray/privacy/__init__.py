"""What is said of privacy, and how it is proved: pure functions, no storage and no Ray."""

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
    "PublicKey",
    "Signature",
    "SigningKey",
    "read_public_key",
    "read_signing_key",
]
