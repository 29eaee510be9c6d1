"""Signatures: pure functions of bytes. No torch, no ray, no storage.

Names are looked up when they are first used: a process that only asks for an option must not wait for what checks signatures.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

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


def __getattr__(name: str) -> Any:
    for module, names in _WHERE.items():
        if name in names:
            return getattr(import_module(module), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
