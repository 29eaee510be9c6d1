"""`verify` of a run with public keys: a signature that was taken away is seen, and each certificate needs one by a known key."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from command import here
from proved import KEY, OTHER_KEY, public_pem
from released import copied, toy_forget, trained_toy
from toy_run import EVERYONE

import taft_ray as tr
from taft_ray.proof.signature import sign_certificate
from taft_ray.proof.verify_run import verify
from taft_ray.storage import Ledger, Store, entry_key


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with two signed certificates; the signature of the second is the ledger's newest entry."""
    run = trained_toy(tmp_path_factory.mktemp("signed") / "run")
    for name in EVERYONE[:2]:
        sign_certificate(str(run), toy_forget(run, [name], "retrain")["request"], KEY)
    return run


@pytest.fixture
def run(signed: Path, tmp_path: Path) -> Path:
    return copied(signed, tmp_path / "run")


def strip_newest_signature(run: Path) -> str:
    """Take the newest signature away, as somebody does who can write to the folder: the request whose it was."""
    newest = Ledger(Store(str(run))).entries()[-1]
    assert newest.kind == "signed"
    (run / entry_key(newest.number)).unlink()
    (run / newest.body["key"]).unlink()
    return newest.body["request"]


def problems(run: Path, keys: Sequence[Any] = (KEY.public,)) -> list[str]:
    return list(verify(str(run), public_keys=keys)["problems"])


def test_run_whose_certificates_are_all_signed_holds(run: Path) -> None:
    answer = verify(str(run), public_keys=[KEY.public])
    assert answer["problems"] == []
    assert answer["checks"]["signatures by the given keys"] == 2
    assert "signatures by the given keys" not in verify(str(run))["checks"]


def test_signature_that_was_stripped_is_seen_with_the_key_alone(run: Path) -> None:
    request = strip_newest_signature(run)
    assert verify(str(run))["problems"] == [], "what is left is a valid chain"
    (problem,) = problems(run)
    assert f"certificates/{request}-" in problem
    assert KEY.public.fingerprint in problem
    assert f"taft-ray sign {run} --request {request} --key FILE" in problem
    sign_certificate(str(run), request, KEY)
    assert problems(run) == []


def test_only_signature_that_was_stripped_is_seen(tmp_path: Path) -> None:
    """Nothing in the run says that it ever was signed."""
    run = trained_toy(tmp_path / "run")
    sign_certificate(str(run), toy_forget(run, [EVERYONE[0]], "retrain")["request"], KEY)
    assert problems(run) == []
    strip_newest_signature(run)
    assert [("is not signed" in one) for one in problems(run)] == [True]


def test_signature_of_an_older_certificate_that_was_made_last_is_missed(run: Path, tmp_path: Path) -> None:
    """It was issued before the run began to sign, and signed afterwards."""
    other = trained_toy(tmp_path / "other")
    older = toy_forget(other, [EVERYONE[0]], "retrain")["request"]
    newer = toy_forget(other, [EVERYONE[1]], "retrain")["request"]
    sign_certificate(str(other), newer, KEY)
    sign_certificate(str(other), older, KEY)
    assert problems(other) == []
    assert strip_newest_signature(other) == older
    (problem,) = problems(other)
    assert f"certificates/{older}-" in problem


def test_signature_of_another_key_needs_that_key_too(run: Path, tmp_path: Path) -> None:
    third = toy_forget(run, [EVERYONE[4]], "retrain")["request"]
    sign_certificate(str(run), third, OTHER_KEY)
    (problem,) = problems(run)
    assert f"certificates/{third}-" in problem
    assert f"is signed by {OTHER_KEY.public.fingerprint}, not by {KEY.public.fingerprint}" in problem
    assert "another --public-key" in problem
    assert problems(run, [KEY.public, OTHER_KEY.public]) == []
    (tmp_path / "key.pub").write_bytes(public_pem())
    (tmp_path / "other.pub").write_bytes(public_pem(bytes(32)))
    one = ("--public-key", tmp_path / "key.pub")
    assert here("verify", run, *one).code == 1
    assert here("verify", run, *one, "--public-key", tmp_path / "other.pub").code == 0
    assert not tr.Run(run).verify(public_key=tmp_path / "key.pub").ok
    assert tr.Run(run).verify(public_key=[KEY.public, tmp_path / "other.pub"]).ok
    here("verify", run, "--public-key", tmp_path / "none").complains(2, "cannot be read")
