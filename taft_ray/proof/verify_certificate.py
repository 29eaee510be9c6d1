"""`verify CERTIFICATE`: one certificate, by itself and against the run it is of. Needs no Ray."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from taft_ray.counting import plural, which
from taft_ray.errors import IntegrityError, ObjectMissing, StorageError, TaftError, UsageError
from taft_ray.log import operation
from taft_ray.plans.fold import replay
from taft_ray.plans.orphans import referred_to
from taft_ray.plans.state import RequestState, RunState
from taft_ray.privacy import PublicKey, Signature
from taft_ray.proof.certificate import certificate_bytes, open_certificate
from taft_ray.proof.contradictions import contradictions, inconsistencies
from taft_ray.proof.evidence import Findings
from taft_ray.proof.signature import read_signature
from taft_ray.run.spec import run_spec
from taft_ray.run.sums import snapshots_of, sums_of_tiers
from taft_ray.storage import Entry, Ledger, PartRef, Store, Tombstones, digest_bytes, digest_json, read_manifest
from taft_ray.storage import rundir as names
from taft_ray.storage.manifest import MANIFEST_KEY

_SUFFIX = ".json"


def is_certificate(target: str) -> bool:
    """Whether a target of `verify` is a certificate: a file, or the URI of one. Everything else is a run."""
    return target.endswith(_SUFFIX) if "://" in target else Path(target).expanduser().is_file()


@operation("verify certificate")
def verify_certificate(target: str, *, public_key: PublicKey | None = None, run: str | None = None) -> dict[str, Any]:
    """Check a certificate: {"ok", "request", "digest", "signed_by", "run", "checks", "problems", "notes"}.

    The check covers its seal, its signature, and that it agrees with itself. The signature is in the file or in the file
    beside it; with ``public_key`` it must have been made by that key. The certificate is also checked against ``run``, by
    default the run it names where that can be reached. The run's ledger must have it at its place, and nothing that it
    removed may have come back.
    """
    findings = Findings()
    folder, data = _read(target)
    certificate: dict[str, Any] = {}
    signature: Signature | None = None
    with findings.examining("seal"):
        certificate, found = open_certificate(data, target)
        findings.checks["seal"] = 1
        with findings.examining("signature"):
            beside = _signature_beside(folder, certificate)
            signature = Signature.from_json(found, target) if found is not None else beside
            _check_signer(findings, certificate, signature, public_key, target)
        with findings.examining("consistency"):
            wrong = list(inconsistencies(certificate))
            findings.problems += [f"consistency: {text}" for text in wrong]
            findings.checks["consistency"] = int(not wrong)
            findings.notes += [f"it could not reach everything: {text}" for text in certificate["beyond_reach"]]
    address = None
    if certificate:
        with findings.examining("run"):
            address = _against_run(findings, certificate, signature, run)
    return {
        **findings.answer(),
        "request": certificate.get("request"),
        "digest": certificate.get("digest"),
        "signed_by": PublicKey.from_hex(signature.public_key).fingerprint
        if findings.checks.get("signature") and signature
        else None,
        "run": address,
    }


def _read(target: str) -> tuple[Store, bytes]:
    """The folder of the file, and its bytes."""
    path = target if "://" in target else str(Path(target).expanduser().absolute())
    folder, _, name = path.rpartition("/")
    store = Store(folder or "/")
    try:
        return store, store.read(name)
    except ObjectMissing as error:
        raise UsageError(
            f"there is no certificate at {target}; give the file or URI of one, or a run's folder"
        ) from error


def _signature_beside(folder: Store, certificate: dict[str, Any]) -> Signature | None:
    """The signature in the same folder, where a run keeps it."""
    name = names.signature_key(certificate["request"]).rpartition("/")[2]
    return read_signature(folder.read(name), name) if folder.exists(name) else None


def _check_signer(
    findings: Findings,
    certificate: dict[str, Any],
    signature: Signature | None,
    expected: PublicKey | None,
    target: str,
) -> None:
    if signature is None:
        if expected is not None:
            raise IntegrityError(f"{target} is not signed, and a signature of {expected.fingerprint} was asked for")
        findings.notes.append("it is not signed: nothing in it says who made it")
        return
    signer = signature.check(certificate_bytes(certificate), target)
    if expected is not None and signer != expected:
        raise IntegrityError(f"{target} is signed by {signer.fingerprint}, not by {expected.fingerprint}")
    findings.checks["signature"] = 1
    if expected is None:
        findings.notes.append(
            f"it is signed by {signer.fingerprint}: whose key that is must be known from elsewhere; give it as --public-key"
        )


def _against_run(
    findings: Findings, certificate: dict[str, Any], signature: Signature | None, run: str | None
) -> str | None:
    """Check against the run; returns its address, None when there was none to check against."""
    address = run or str(certificate["run"]["address"])
    store = Store(address)
    try:
        spec = run_spec(store)
    except StorageError as error:
        if run is not None:
            raise
        findings.notes.append(f"it was not compared with its run: {error}; give the run as --run")
        return None
    if digest_json(spec.to_json()) != certificate["run"]["spec_digest"]:
        raise IntegrityError(
            f"{store.uri} is another run than the one the certificate is of; give the right one as --run"
        )
    ledger = Ledger(store)
    state = replay(entries := ledger.entries())
    request = state.requests.get(certificate["request"])
    if request is None or request.forgotten is None:
        raise IntegrityError(
            f"the ledger of {store.uri} knows no finished request {certificate['request']!r}{_since(store, state, certificate)}"
        )
    committed = request.forgotten.certificate.digest
    if digest_bytes(certificate_bytes(certificate)) != committed:
        raise IntegrityError(
            f"the ledger of {store.uri} has another certificate of this request: digest {committed[:16]}"
            f"{_replaced(request, entries, certificate)}"
        )
    before = len(findings.problems)
    findings.problems += [f"run: {wrong}" for wrong in contradictions(certificate, entries, state)]
    _compare_signatures(findings, request, signature)
    came_back = [*_samples_back(store, state, certificate), *_objects_back(store, spec, state, certificate)]
    findings.problems += [f"run: {text}" for text in came_back]
    findings.checks["run"] = int(len(findings.problems) == before)
    return store.uri


def _replaced(request: RequestState, entries: Sequence[Entry], certificate: dict[str, Any]) -> str:
    """A sentence on a certificate of a ledger that an older copy of the folder has replaced; nothing where that is not so."""
    if request.first_requested is None or request.forgotten is None or _stands_in(entries, certificate):
        return ""
    return (
        f". This one is of a ledger that was replaced: an older copy of the folder was put back. Its request {request.request} was "
        f"registered again at {request.time}, and its certificate is {request.forgotten.certificate.key} now"
    )


def _stands_in(entries: Sequence[Entry], certificate: dict[str, Any]) -> bool:
    """Whether a certificate rests on an entry of this ledger."""
    return certificate["rests_on"]["digest"] in {entry.digest for entry in entries}


def _since(store: Store, state: RunState, certificate: dict[str, Any]) -> str:
    """A sentence on what became of a request that the ledger has not, or not finished, as far as it can be known."""
    name, hashes = certificate["request"], set(certificate["id_hashes"])
    known = state.requests.get(name)
    if known is None and state.identity and name in Tombstones(store, state.identity).names():
        return (
            ". It is kept beside the run: an older copy of the folder was put back, and this certificate is of the ledger that was "
            f"replaced. Run taft-ray forget {store.uri} --due, which registers it again and makes a new certificate"
        )
    if known is not None:
        again = known.first_requested is not None
        why = (
            "was registered again, because an older copy of the folder was put back, and" if again else "is there, and"
        )
        return f". The request {why} is not carried out yet: run taft-ray forget {store.uri} --due"
    others = sorted({state.tombstones[one] for one in hashes & state.tombstones.keys()})
    if not others or hashes - state.tombstones.keys():
        return ""
    return f". All of its samples are in {which('request', others)} of this ledger: see taft-ray status {store.uri}"


def _compare_signatures(findings: Findings, request: RequestState, signature: Signature | None) -> None:
    if request.signed is None:
        return
    signer = PublicKey.from_hex(request.signed.public_key)
    if signature is None:
        findings.notes.append(f"this copy is not signed, and the run's ledger has a signature of {signer.fingerprint}")
    elif signature.public_key != signer.hex:
        findings.problems.append(f"signature: the run's ledger has one of another key, {signer.fingerprint}")


def _samples_back(store: Store, state: RunState, certificate: dict[str, Any]) -> list[str]:
    hashes = set(certificate["id_hashes"]).union(*(one["id_hashes"] for one in certificate.get("brought_back", ())))
    found = []
    if hashes - state.tombstones.keys():
        found.append(
            f"{plural(len(hashes - state.tombstones.keys()), 'of its samples is', 'of its samples are')} not among the run's forgotten ones"
        )
    manifest = read_manifest(store)
    back = set() if manifest is None else hashes & set(manifest.table["id_hash"].to_pylist())
    if back:
        found.append(f"{plural(len(back), 'of its samples is', 'of its samples are')} in the manifest again")
    return found


def _objects_back(store: Store, spec: Any, state: RunState, certificate: dict[str, Any]) -> list[str]:
    """Objects that were removed and are there again, unless the run refers to them.

    A snapshot may: where a request changed no model, the one after it is the one before.
    """
    listed = {info.key for info in store.list()}
    back = {entry["key"] for entry in certificate["objects_removed"]} & listed
    if not back:
        return []
    try:
        manifest = read_manifest(store)
        parts, rows = ({}, set()) if manifest is None else (manifest.parts, manifest.keys)
        composed = (
            snapshots_of(spec, sums_of_tiers(store, spec, state))
            if any(k.startswith(f"{names.COMPOSED_FOLDER}/") for k in back)
            else {}
        )
    except TaftError as error:
        return [f"{sorted(back)[:8]} were removed and are there again, and the run itself is damaged: {error}"]
    back -= referred_to(state, parts, composed, rows)
    back -= _measured_again(store, back, set(certificate["id_hashes"]))
    return [f"{key} was removed and is there again" for key in sorted(back)]


def _measured_again(store: Store, back: set[str], hashes: set[str]) -> set[str]:
    """Those of the objects that are of evaluation data which was read again, without the samples of these hashes."""
    fine: set[str] = set()
    folder = f"{names.EVAL_FOLDER}/"
    for prefix in {f"{folder}{key.removeprefix(folder).partition('/')[0]}" for key in back if key.startswith(folder)}:
        inside = store.inside(prefix)
        try:
            manifest = read_manifest(inside)
        except TaftError:  # damaged: what it holds cannot be told
            continue
        if manifest is None or hashes & set(manifest.table["id_hash"].to_pylist()):
            continue
        fine |= {f"{prefix}/{key}" for key in (MANIFEST_KEY, *manifest.keys)}
        fine |= {PartRef.from_json(ref).key for ref in manifest.refs}
    return fine
