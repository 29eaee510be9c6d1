"""Signatures: one key, one message, and a clear word about every file that is not the key it should be."""

import pickle  # noqa: TID251 - it is what Ray would send a key with
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa, x25519

from taft_ray.errors import IntegrityError, UsageError
from taft_ray.privacy import PublicKey, Signature, SigningKey, read_public_key, read_signing_key

# RFC 8032, 7.1, test 2
SEED = bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")
PUBLIC = "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"
SIGNATURE = (
    "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
    "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
)
MESSAGE = b"\x72"

NO_PASSPHRASE = serialization.NoEncryption()


def pem(key, protection: serialization.KeySerializationEncryption = NO_PASSPHRASE) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, protection)


def public_pem(key) -> bytes:
    return key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


@pytest.fixture
def key() -> SigningKey:
    return SigningKey(ed25519.Ed25519PrivateKey.from_private_bytes(SEED))


def test_signature_of_the_standard(key: SigningKey) -> None:
    signed = key.sign(MESSAGE)
    assert (signed.public_key, signed.signature) == (PUBLIC, SIGNATURE)
    assert signed.check(MESSAGE, "here") == key.public


def test_every_bit_of_message_signature_and_key_counts(key: SigningKey) -> None:
    message = b"what was forgotten"
    signed = key.sign(message)
    for at in range(8 * len(message)):
        changed = bytearray(message)
        changed[at // 8] ^= 1 << at % 8
        with pytest.raises(IntegrityError, match="here"):
            signed.check(bytes(changed), "here")
    for field in ("signature", "public_key"):
        right = bytes.fromhex(getattr(signed, field))
        for at in range(8 * len(right)):
            wrong = bytearray(right)
            wrong[at // 8] ^= 1 << at % 8
            with pytest.raises(IntegrityError):
                Signature(**{**vars(signed), field: wrong.hex()}).check(message, "here")


def test_another_key_is_another_signer(key: SigningKey) -> None:
    other = SigningKey(ed25519.Ed25519PrivateKey.generate())
    assert other.sign(MESSAGE).check(MESSAGE, "here") != key.public
    with pytest.raises(IntegrityError, match=key.public.fingerprint):
        key.public.check(bytes.fromhex(other.sign(MESSAGE).signature), MESSAGE, "here")


@pytest.mark.parametrize(
    "fields",
    [
        None, [], "text", {}, {"algorithm": "ed25519"},
        {"algorithm": "none", "public_key": PUBLIC, "signature": SIGNATURE},
        {"algorithm": "ed25519", "public_key": PUBLIC, "signature": SIGNATURE, "more": 1},
    ],
)  # fmt: skip
def test_what_is_no_signature_is_said(fields: object) -> None:
    with pytest.raises(IntegrityError, match="here"):
        Signature.from_json(fields, "here")


@pytest.mark.parametrize("text", ["", "00", PUBLIC.upper(), PUBLIC[:-1] + " ", 5, None])
def test_keys_have_one_spelling(text: object) -> None:
    with pytest.raises(IntegrityError, match="hexadecimal"):
        PublicKey.from_hex(text)  # type: ignore[arg-type]


def test_files_of_openssl_are_read(tmp_path: Path, key: SigningKey) -> None:
    private, public = tmp_path / "key.pem", tmp_path / "key.pub"
    private.write_bytes(pem(ed25519.Ed25519PrivateKey.from_private_bytes(SEED)))
    public.write_bytes(public_pem(ed25519.Ed25519PrivateKey.from_private_bytes(SEED)))
    assert read_signing_key(private).public == key.public == read_public_key(public)
    assert read_signing_key(private).sign(MESSAGE).signature == SIGNATURE


def test_openssl_agrees_on_fingerprint_and_signature(tmp_path: Path, key: SigningKey) -> None:
    """Whoever does not trust this package can check with another."""
    try:
        subprocess.run(["openssl", "version"], capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("there is no openssl")
    private, public = tmp_path / "key.pem", tmp_path / "key.pub"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", private], check=True, capture_output=True)
    subprocess.run(["openssl", "pkey", "-in", private, "-pubout", "-out", public], check=True, capture_output=True)
    signer = read_signing_key(private)
    (tmp_path / "message").write_bytes(MESSAGE)
    (tmp_path / "signature").write_bytes(bytes.fromhex(signer.sign(MESSAGE).signature))
    command = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", public, "-rawin", "-in", tmp_path / "message"]
    subprocess.run([*command, "-sigfile", tmp_path / "signature"], check=True, capture_output=True)
    der = subprocess.run(
        ["openssl", "pkey", "-pubin", "-in", public, "-outform", "DER"], check=True, capture_output=True
    ).stdout
    import hashlib

    assert signer.public.fingerprint == f"sha256:{hashlib.sha256(der).hexdigest()}"


WRONG_PRIVATE = {
    "rsa": (lambda: pem(rsa.generate_private_key(65537, 2048)), "expected an Ed25519 key, got RSA"),
    "x25519": (lambda: pem(x25519.X25519PrivateKey.generate()), "expected an Ed25519 key, got X25519"),
    "public": (lambda: public_pem(ed25519.Ed25519PrivateKey.generate()), "is a public key"),
    "passphrase": (
        lambda: pem(ed25519.Ed25519PrivateKey.generate(), serialization.BestAvailableEncryption(b"x")),
        "passphrase",
    ),
    "empty": (lambda: b"", "not a private key in PEM form"),
    "text": (lambda: b"-----BEGIN PRIVATE KEY-----\nhello\n-----END PRIVATE KEY-----\n", "not a private key in PEM"),
    "huge": (lambda: b"x" * 100_000, "not a key"),
}


@pytest.mark.parametrize("kind", WRONG_PRIVATE)
def test_wrong_private_key_is_named_with_the_fix(tmp_path: Path, kind: str) -> None:
    content, words = WRONG_PRIVATE[kind]
    (tmp_path / "key.pem").write_bytes(content())
    with pytest.raises(UsageError, match=words) as error:
        read_signing_key(tmp_path / "key.pem")
    assert "openssl" in str(error.value)


@pytest.mark.parametrize("read", [read_signing_key, read_public_key])
def test_missing_key_file(tmp_path: Path, read) -> None:
    with pytest.raises(UsageError, match=r"none\.pem cannot be read: No such file"):
        read(tmp_path / "none.pem")
    with pytest.raises(UsageError, match="cannot be read"):
        read(tmp_path)


@pytest.mark.parametrize("kind", ["private", "rsa", "text"])
def test_wrong_public_key_is_named_with_the_fix(tmp_path: Path, kind: str) -> None:
    content = {
        "private": lambda: pem(ed25519.Ed25519PrivateKey.generate()),
        "rsa": lambda: public_pem(rsa.generate_private_key(65537, 2048)),
        "text": lambda: b"a key",
    }[kind]()
    (tmp_path / "key.pub").write_bytes(content)
    with pytest.raises(UsageError, match=r"key\.pub.*openssl"):
        read_public_key(tmp_path / "key.pub")


def test_private_key_is_neither_shown_nor_sent(key: SigningKey) -> None:
    assert SEED.hex() not in repr(key)
    assert key.public.fingerprint in repr(key)
    with pytest.raises(UsageError, match="does not leave"):
        pickle.dumps(key)
