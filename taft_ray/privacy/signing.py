"""Ed25519 signatures (RFC 8032): who vouches for a certificate.

A signature is made over the certificate's bytes as they are, so that it can be checked without this package:

    openssl pkeyutl -verify -pubin -inkey key.pub -rawin -in certificate.json -sigfile signature.bin

A key's fingerprint is the SHA-256 of its public half as `openssl pkey -pubout -outform DER` writes it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from taft_ray.errors import IntegrityError, UsageError

ALGORITHM = "ed25519"
_MAKE = "make one with: openssl genpkey -algorithm ed25519 -out key.pem"
_PUBLISH = "take it from the private one: openssl pkey -in key.pem -pubout -out key.pub"
_LIMIT = 64 << 10  # bytes: no key file is larger


class PublicKey:
    """Whose signatures can be checked."""

    def __init__(self, key: Ed25519PublicKey) -> None:
        self._key = key

    @classmethod
    def from_hex(cls, text: str, where: str = "public key") -> PublicKey:
        """The key of 64 hexadecimal characters; IntegrityError naming ``where`` for anything else."""
        return cls(Ed25519PublicKey.from_public_bytes(_unhex(text, 32, where)))

    @property
    def hex(self) -> str:
        """The raw 32 bytes."""
        return self._key.public_bytes_raw().hex()

    @property
    def pem(self) -> bytes:
        """The key as a PEM file, as ``openssl`` reads it."""
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        return self._key.public_bytes(serialization.Encoding.PEM, form)

    @property
    def fingerprint(self) -> str:
        """``sha256:`` and the SHA-256 of the key's DER form: what people compare over the telephone."""
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        return f"sha256:{hashlib.sha256(self._key.public_bytes(serialization.Encoding.DER, form)).hexdigest()}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PublicKey) and self.hex == other.hex

    def __hash__(self) -> int:
        return hash(self.hex)

    def __repr__(self) -> str:
        return f"PublicKey({self.fingerprint})"

    def check(self, signature: bytes, message: bytes, where: str) -> None:
        """IntegrityError naming ``where`` unless this key's owner signed exactly ``message``."""
        try:
            self._key.verify(signature, message)
        except InvalidSignature as error:
            raise IntegrityError(
                f"{where}: the signature is not one of {self.fingerprint} over these bytes; "
                "the certificate or its signature was changed, or another key made it"
            ) from error


class SigningKey:
    """A private key. Its `repr` has the public fingerprint only, and it cannot be pickled: it stays in its process."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public = PublicKey(key.public_key())

    def __repr__(self) -> str:
        return f"SigningKey({self.public.fingerprint})"

    def __reduce__(self) -> Any:
        raise UsageError("a private key does not leave the process that read it")

    def sign(self, message: bytes) -> Signature:
        """Equal key and message give an equal signature."""
        return Signature(public_key=self.public.hex, signature=self._key.sign(message).hex())


@dataclass(frozen=True, kw_only=True)
class Signature:
    """A signature and the key that it can be checked with, both as hexadecimal characters."""

    public_key: str
    signature: str

    def to_json(self) -> dict[str, str]:
        return {"algorithm": ALGORITHM, "public_key": self.public_key, "signature": self.signature}

    @classmethod
    def from_json(cls, fields: Any, where: str) -> Signature:
        """The signature that `to_json` wrote; IntegrityError naming ``where`` for anything else."""
        names = {"algorithm", "public_key", "signature"}
        if not isinstance(fields, Mapping) or set(fields) != names:
            got = sorted(fields) if isinstance(fields, Mapping) else type(fields).__name__
            raise IntegrityError(f"{where}: not a signature: expected the fields {sorted(names)}, got {got}")
        if fields["algorithm"] != ALGORITHM:
            raise IntegrityError(f"{where}: expected algorithm {ALGORITHM}, got {str(fields['algorithm'])[:40]!r}")
        return cls(public_key=fields["public_key"], signature=fields["signature"])

    def check(self, message: bytes, where: str) -> PublicKey:
        """The key that signed ``message``; IntegrityError naming ``where`` if it did not."""
        key = PublicKey.from_hex(self.public_key, f"{where}: public key")
        key.check(_unhex(self.signature, 64, f"{where}: signature"), message, where)
        return key


def read_signing_key(path: str | Path) -> SigningKey:
    """The private Ed25519 key of a PEM file (PKCS#8). UsageError says what is wrong with it, never what is in it.

    Examples:
        >>> tr.read_signing_key("key.pem")
        SigningKey(sha256:...)
    """
    data = _read(path)
    if b"PRIVATE KEY" not in data and b"PUBLIC KEY" in data:
        raise UsageError(f"{path} is a public key; signing needs the private one: {_MAKE}")
    try:
        key = serialization.load_pem_private_key(data, password=None)
    except TypeError:  # what cryptography raises for a key that needs a passphrase
        raise UsageError(
            f"{path} is protected by a passphrase; give a key without one: openssl pkey -in {path} -out FILE"
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise UsageError(f"{path} is not a private key in PEM form; {_MAKE}") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise UsageError(f"{path}: expected an Ed25519 key, got {_kind(key)}; {_MAKE}")
    return SigningKey(key)


def read_public_key(path: str | Path) -> PublicKey:
    """The public Ed25519 key of a PEM file. A private key is refused: it has no business with whoever checks.

    Examples:
        >>> tr.read_public_key("public.pem")
        PublicKey(sha256:...)
    """
    data = _read(path)
    if b"PRIVATE KEY" in data:
        raise UsageError(f"{path} is a private key; checking needs the public one: {_PUBLISH}")
    try:
        key = serialization.load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm):
        raise UsageError(f"{path} is not a public key in PEM form; {_PUBLISH}") from None
    if not isinstance(key, Ed25519PublicKey):
        raise UsageError(f"{path}: expected an Ed25519 key, got {_kind(key)}; {_MAKE}")
    return PublicKey(key)


def _read(path: str | Path) -> bytes:
    try:
        with open(Path(path).expanduser(), "rb") as file:
            data = file.read(_LIMIT + 1)
    except OSError as error:
        raise UsageError(f"key file {path} cannot be read: {error.strerror or error}; {_MAKE}") from None
    if len(data) > _LIMIT:
        raise UsageError(f"{path} is not a key: it has more than {_LIMIT} bytes; {_MAKE}")
    return data


def _kind(key: object) -> str:
    return type(key).__name__.removeprefix("_").replace("PrivateKey", "").replace("PublicKey", "") or "another kind"


def _unhex(text: Any, size: int, where: str) -> bytes:
    if not isinstance(text, str) or len(text) != 2 * size or not set(text) <= set("0123456789abcdef"):
        raise IntegrityError(f"{where}: expected {2 * size} lower-case hexadecimal characters")
    return bytes.fromhex(text)
