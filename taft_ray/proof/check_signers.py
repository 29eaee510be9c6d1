"""`verify` with public keys: every certificate of the run is signed by one of them.

The ledger alone cannot show that the newest signature was taken away with the entries behind it: what is left is a valid chain. Whoever
knows the keys can demand a signature of every certificate. An older one is signed with `taft-ray sign`, so that none is excused.
"""

from __future__ import annotations

from taft_ray.errors import IntegrityError
from taft_ray.plans.state import RequestState
from taft_ray.privacy import PublicKey
from taft_ray.proof.evidence import Evidence


def signers(run: Evidence) -> None:
    """Every certificate has a signature by one of the keys that were given. That it is valid is found with the certificates."""
    if not run.public_keys:
        return
    count = 0
    for request in run.state.requests.values():
        with run.examining("signers"):
            count += _is_signed(run, request)
    run.checks["signatures by the given keys"] = count


def _is_signed(run: Evidence, request: RequestState) -> bool:
    """Whether a request has a certificate with such a signature; IntegrityError for a certificate without."""
    if request.forgotten is None:
        return False
    where, expected = request.forgotten.certificate.key, " or ".join(one.fingerprint for one in run.public_keys)
    if request.signed is None:
        raise IntegrityError(
            f"{where} is not signed, and a signature of {expected} was asked for. If it was signed before, the newest entries of the "
            "ledger were cut off: restore the ledger from a copy. "
            f"If it never was, sign it: taft-ray sign {run.store.uri} --request {request.request} --key FILE"
        )
    signer = PublicKey.from_hex(request.signed.public_key)
    if signer not in run.public_keys:
        raise IntegrityError(
            f"{where} is signed by {signer.fingerprint}, not by {expected}. If that key is the run's, too, add it as another --public-key"
        )
    return True
