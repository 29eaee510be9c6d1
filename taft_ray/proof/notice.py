"""The notice of a recall: what whoever has a release is asked, signed as certificates are.

It is canonical JSON; the signature, which the notice carries as "signature", is over the bytes without it. Equal facts make an equal
notice, so that a notice that is sent again has the bytes of before.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from taft_ray.errors import IntegrityError
from taft_ray.plans.recalls import Standing
from taft_ray.plans.spec import RunSpec
from taft_ray.plans.state import RunState
from taft_ray.privacy import PublicKey, Signature, SigningKey
from taft_ray.storage import MALFORMED, canonical_json, digest_bytes, digest_json, parse_json

SCHEMA = "taft_ray.recall/1"
_ASKS = (
    "This file holds what was forgotten since. Stop using it, delete it and every copy, and take a newer release. "
    "The certificates of the requests named here say what was forgotten."
)


def notice(state: RunState, spec: RunSpec, recalled: Standing) -> dict[str, Any]:
    """The notice of a recalled release, without its signature. It names the requests, and no sample and no owner."""
    fact = recalled.release.fact
    forgets = [state.requests[name] for name in recalled.requests]
    return {
        "schema": SCHEMA,
        "run": {"spec_digest": digest_json(spec.to_json())},
        "release": fact.release,
        "what": fact.what,
        "released": recalled.release.time,
        "digest": {"sha256": fact.digest},
        "bytes": fact.bytes,
        "composed": fact.composed,
        "to": fact.to,
        "contact": fact.contact,
        "until": fact.until,
        "recalled_by": [{"request": one.request, "mode": one.mode, "requested": one.requested} for one in forgets],
        "asks": _ASKS,
    }


def idempotency_key(told: Mapping[str, Any]) -> str:
    """The same for the same notice, however often it is sent."""
    return digest_bytes(canonical_json(told))[:32]


def signed(told: Mapping[str, Any], key: SigningKey) -> bytes:
    """The notice with its signature, as it is sent."""
    return canonical_json({**told, "signature": key.sign(canonical_json(told)).to_json()})


def check_notice(data: bytes, where: str = "the notice") -> tuple[dict[str, Any], PublicKey]:
    """A notice as it was sent, without its signature, and the key that signed it; IntegrityError for anything else."""
    try:
        given = parse_json(data)
        signature = Signature.from_json(given.pop("signature", None), where)
    except MALFORMED as error:
        raise IntegrityError(f"{where} is not a notice of a recall: {str(error)[:80]}") from error
    if given.get("schema") != SCHEMA:
        raise IntegrityError(f"{where} is not a notice of a recall: expected schema {SCHEMA!r}")
    return given, signature.check(canonical_json(given), where)
