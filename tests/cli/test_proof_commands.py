"""`sign`, `forget --sign` and `verify` of a certificate, as commands."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command import here
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from tiny import SHARDS, sample_id


@pytest.fixture(autouse=True)
def _ray(ray_session: None) -> None:
    """The tests' own Ray, which stays when a command leaves it."""


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """key.pem, key.pub, other.pub and rsa.pem."""
    folder = tmp_path_factory.mktemp("keys")
    key, other, rsa = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate(), generate_private_key(65537, 2048)
    pem, form = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    for name, private in (("key.pem", key), ("rsa.pem", rsa)):
        data = private.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        (folder / name).write_bytes(data)
    for name, private in (("key.pub", key), ("other.pub", other)):
        (folder / name).write_bytes(private.public_key().public_bytes(pem, form))
    return folder


@pytest.fixture(scope="module")
def trained(
    tmp_path_factory: pytest.TempPathFactory, ray_session: None, spec_of: Callable[..., Any], parquet: Path
) -> Path:
    from taft_ray.verbs.train import train

    run = tmp_path_factory.mktemp("signing") / "run"
    train(str(run), spec_of(parquet, trainable="head", shards=SHARDS), lanes=1)
    return run


def test_a_wrong_key_is_noticed_before_anything_happens(trained: Path, keys: Path) -> None:
    before = sorted(path.name for path in trained.rglob("*"))
    for name, words in (("rsa.pem", "expected an Ed25519 key"), ("key.pub", "public key"), ("none", "cannot be read")):
        answer = here("forget", trained, "--ids", sample_id(0), "--mode", "drop", "--sign", keys / name)
        answer.complains(2, words)
    assert sorted(path.name for path in trained.rglob("*")) == before


def test_from_forget_to_verify(trained: Path, keys: Path, copy_of: Callable[..., Path], tmp_path: Path) -> None:
    run = copy_of(trained)
    signed = here("forget", run, "--ids", sample_id(0), "--mode", "drop", "--sign", keys / "key.pem", "--json")
    assert signed.code == 0, signed.err
    assert signed.json["signature"]["algorithm"] == "ed25519"
    file = tmp_path / "certificate.json"
    file.write_text(signed.out)
    answer = here("verify", file, "--public-key", keys / "key.pub", "--json")
    assert answer.code == 0, answer.err
    assert answer.json["run"] == str(run)
    answer = here("verify", file, "--public-key", keys / "other.pub", "--json")
    assert answer.code == 1
    assert "not by sha256:" in answer.json["problems"][0]
    file.write_text(signed.out.replace('"drop"', '"retrain"', 1))
    assert here("verify", file, "--json").code == 1
    assert here("verify", run, "--json").json["checks"]["signatures"] == 1
    # asked again, it answers with the same certificate and signature
    again = here("forget", run, "--ids", sample_id(0), "--mode", "drop", "--sign", keys / "key.pem", "--json").json
    assert again.pop("repeated") is True
    assert again == signed.json


def test_sign_later(trained: Path, keys: Path, copy_of: Callable[..., Path]) -> None:
    run = copy_of(trained)
    made = here("forget", run, "--ids", sample_id(0), "--mode", "drop", "--json").json
    assert "signature" not in made
    signed = here("sign", run, "--request", made["request"], "--key", keys / "key.pem", "--json")
    assert signed.code == 0, signed.err
    assert {name: value for name, value in signed.json.items() if name != "signature"} == made
    here("sign", run, "--request", "nobody", "--key", keys / "key.pem").complains(2, "not one of this run's")
    lies = next((run / "certificates").glob("*-*.json"))
    assert json.loads(lies.read_text()) == made
    assert here("verify", lies, "--public-key", keys / "key.pub").code == 0


def test_options_of_the_other_target_are_refused(trained: Path, keys: Path, tmp_path: Path) -> None:
    here("verify", trained, "--run", trained).complains(2, "is not a certificate's file")
    (tmp_path / "c.json").write_text("{}")
    both = ("--public-key", keys / "key.pub", "--public-key", keys / "other.pub")
    here("verify", tmp_path / "c.json", *both).complains(2, "give --public-key once")
    here("verify", tmp_path / "c.json", "--retrain").complains(2, "is a certificate")
