"""Signatures of certificates: made by whoever runs the command, kept beside the certificate, committed to the ledger.

The private key is read by the process of the command. It never travels to Ray, storage or the ledger.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from taft_ray.errors import IntegrityError, UsageError
from taft_ray.log import operation
from taft_ray.plans.facts import Signed
from taft_ray.plans.fold import replay
from taft_ray.plans.state import RequestState
from taft_ray.privacy import Signature, SigningKey
from taft_ray.proof.certificate import certificate_bytes, open_certificate
from taft_ray.run.record import Record
from taft_ray.storage import Ledger, Store, canonical_json, digest_bytes, json_object
from taft_ray.storage import rundir as names


@operation("sign")
def sign_certificate(run: str, request: str, key: SigningKey) -> dict[str, Any]:
    """Sign a finished request's certificate: the certificate with its `signature`. Needs no Ray.

    Guarantees: idempotent. A certificate has one signature, and one of another key is refused (UsageError). A signature
    whose object was lost is written again from the ledger.
    """
    record = Record(run)
    store, ledger = record.store, record.ledger
    certificate = finished_certificate(store, ledger, request)
    signature = key.sign(certificate_bytes(certificate))
    data = _document(request, signature)
    fact = Signed(request, signature.public_key, signature.signature, names.signature_key(request), digest_bytes(data))
    op = f"{request}/signed"
    if ledger.find(op) is None:
        store.write(fact.key, data)
    committed = record.commit(Signed, op, lambda: fact) or fact
    kept = _committed(committed)
    if committed != fact or not store.exists(fact.key):
        store.write(fact.key, _document(request, kept))
    if committed != fact:
        raise UsageError(
            f"request {request} is signed already, by {kept.check(certificate_bytes(certificate), request).fingerprint}; "
            f"this key is {key.public.fingerprint}"
        )
    return {**certificate, "signature": kept.to_json()}


def finished_certificate(store: Store, ledger: Ledger, request: str) -> dict[str, Any]:
    """The certificate of a finished request, checked against the ledger's digest and its own seal."""
    state = replay(ledger.entries()).requests.get(request)
    if state is None or state.forgotten is None:
        what = (
            "is not finished; run its forget again"
            if state is not None
            else "is not one of this run's; see taft-ray status"
        )
        raise UsageError(f"request {request!r} {what}")
    ref = state.forgotten.certificate
    data = store.read(ref.key)
    if digest_bytes(data) != ref.digest:
        raise IntegrityError(f"{ref.key} in {store.uri} was changed: its digest is not the ledger's")
    return open_certificate(data, ref.key)[0]


def with_signature(certificate: Mapping[str, Any], request: RequestState) -> dict[str, Any]:
    """The certificate with the signature that the ledger has of it, if it has one."""
    return (
        {**certificate}
        if request.signed is None
        else {**certificate, "signature": _committed(request.signed).to_json()}
    )


def _committed(fact: Signed) -> Signature:
    return Signature(public_key=fact.public_key, signature=fact.signature)


def check_signature(store: Store, request: RequestState) -> None:
    """IntegrityError naming the object unless a request's signature is the one committed, and is one of its certificate."""
    signed, finished = request.signed, request.forgotten
    assert signed is not None
    assert finished is not None
    where = signed.key
    kept = _committed(signed)
    data = store.read(where)
    if data != _document(request.request, kept) or digest_bytes(data) != signed.digest:
        raise IntegrityError(f"{where} was changed: it is not the signature in the ledger; sign again to restore it")
    kept.check(store.read(finished.certificate.key), where)


def _document(request: str, signature: Signature) -> bytes:
    return canonical_json({"request": request, **signature.to_json()})


def read_signature(data: bytes, where: str) -> Signature:
    """The signature in a file that lies beside its certificate."""
    fields = json_object(data, where, "sign again")
    fields.pop("request", None)
    return Signature.from_json(fields, where)
