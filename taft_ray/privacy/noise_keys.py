"""Keys of noise: made, committed to, and bound to what they are for. Without scipy, which drawing needs.

A key is 32 random bytes per fit. Its `commitment` is noted before the first draw. A seed is the HMAC-SHA256 of spec, inputs and
reservation by the key. Other inputs force other noise.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets

from taft_ray.errors import UsageError

SIZE = 32
"""Bytes of a key and of a seed."""
_SEED = b"taft_ray noise seed 1"
_COMMITMENT = b"taft_ray noise 1"  # 16 bytes at most


def new_key() -> bytes:
    """32 bytes from the operating system's generator."""
    return secrets.token_bytes(SIZE)


def commitment(key: bytes) -> str:
    """A digest that fixes the key and tells nothing about it: 64 hexadecimal characters, as digests in storage are."""
    return hashlib.blake2b(secret_of("key", key), digest_size=32, person=_COMMITMENT).hexdigest()


def stream_seed(key: bytes, *, spec: str, inputs: str, reservation: str) -> bytes:
    """The 32 bytes that a `GaussianStream` starts from: HMAC-SHA256 of the three texts, each behind its length.

    spec: digest of the mechanism (μ, σ, steps, clipping, public inputs).

    inputs: digest of the private rows that are read.

    reservation: digest of the ledger entry that charged them.

    UsageError for a key that is not 32 bytes, and for an empty text.
    """
    message = [_SEED]
    for name, text in (("spec", spec), ("inputs", inputs), ("reservation", reservation)):
        if not isinstance(text, str) or not text:
            raise UsageError(f"{name}={text!r}: expected the digest that noise is bound to")
        data = text.encode()
        message += [len(data).to_bytes(8, "big"), data]
    return hmac.digest(secret_of("key", key), b"".join(message), "sha256")


def secret_of(name: str, value: bytes) -> bytes:
    if not isinstance(value, bytes) or len(value) != SIZE:
        got = f"{len(value)} bytes" if isinstance(value, bytes) else type(value).__name__
        raise UsageError(f"{name} of noise: expected {SIZE} bytes, got {got}; make one with new_key()")
    return value
