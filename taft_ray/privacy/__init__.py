"""Signatures: pure functions of bytes. No torch, no ray, no storage.

Names are looked up when they are first used: a process that only asks for an option must not wait for what checks signatures.
"""

from typing import TYPE_CHECKING

from taft_ray.lazy import attributes

if TYPE_CHECKING:
    from taft_ray.privacy.signing import ALGORITHM, PublicKey, Signature, SigningKey, read_public_key, read_signing_key

__all__ = [
    "ALGORITHM",
    "PublicKey",
    "Signature",
    "SigningKey",
    "read_public_key",
    "read_signing_key",
]

_WHERE = {
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
