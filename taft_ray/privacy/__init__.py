"""Signatures: pure functions of bytes. No torch, no ray, no storage."""

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
