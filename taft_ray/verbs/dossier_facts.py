"""The facts of a dossier: what the run's other verbs answer, side by side. Names of samples and owners are in none of it."""

from __future__ import annotations

import dataclasses
import hashlib
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar

from taft_ray import answers
from taft_ray.errors import TaftError
from taft_ray.plans.spec import RunSpec
from taft_ray.prefix.rejections import rejected
from taft_ray.privacy import PublicKey
from taft_ray.proof.verify_run import verify
from taft_ray.run.outcomes import VERIFY
from taft_ray.run.owned import count_owners
from taft_ray.run.record import Record
from taft_ray.storage import MALFORMED, Store, canonical_json, digest_bytes, json_object
from taft_ray.storage import rundir as names
from taft_ray.verbs.privacy import statement
from taft_ray.verbs.recalls import recalls
from taft_ray.verbs.report import Made, measured
from taft_ray.verbs.retention import retention
from taft_ray.verbs.status import outcomes_of, status
from taft_ray.version import VERSION

SCHEMA = "taft_ray.dossier/1"
_NAME = re.compile(r"[0-9A-Za-z][0-9A-Za-z_-]{0,63}")  # of a request: it is a file's name here, and stands in commands
_AUDITS = (answers.Reconstruction, answers.PrivacyAudit, answers.Audit)
_SPEC = (
    "model", "weights_digest", "shards", "assignment", "solver", "loss", "compose", "beside", "last_blocks", "trainable",
    "features", "penalty", "seed", "versions",
)  # fmt: skip
T = TypeVar("T")


@dataclass
class Gathered:
    """A dossier's facts, and the files that belong to them by name. unread: what could not be read, and why."""

    facts: dict[str, Any] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    pages: dict[str, tuple[dict[str, Any], str, tuple[str, list[str]]]] = field(default_factory=dict)
    unread: list[str] = field(default_factory=list)

    def tried(self, what: str, ask: Callable[[], T]) -> T | None:
        """An answer; None, and a line in ``unread``, where storage does not give it."""
        try:
            return ask()
        except (TaftError, *MALFORMED) as error:
            said = str(error) if isinstance(error, TaftError) else f"{type(error).__name__}: {str(error)[:80]}"
            self.unread.append(f"{what}: {said}")
            return None


def gather(run: str, spec: RunSpec) -> Gathered:
    """Everything that a dossier of this run tells. Each part is there although another cannot be read."""
    found, store = Gathered(), Store(run)
    stands = found.tried("status", lambda: status(run))
    checked = found.tried("verify", lambda: verify(run))
    made = found.tried("report and certificates", lambda: measured(store))
    kept = found.tried("retention", lambda: retention(run))
    left = found.tried("recalls", lambda: recalls(run))
    certificates = {} if made is None else _certificates(found, store, made)
    asked = {} if made is None else {one.request: one.requested for one in made.state.requests.values()}
    found.facts = {
        "schema": SCHEMA,
        "run": run,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "version": VERSION,
        "model": _model(spec, stands, made),
        "data": _data(found, run, spec, stands),
        "verification": checked,
        "requests": [
            {**_request(one, certificates.get(one["request"]), time.time()), "requested": asked.get(one["request"])}
            for one in (stands or _NO)["requests"]
        ],
        "not_covered": _not_covered(certificates),
        "audits": [*_recorded_audits(found, run), *_audits(found, store)],
        "outcomes": (stands or {}).get("outcomes", []),
        "privacy": found.tried("privacy", lambda: statement(run)) if spec.privacy is not None else None,
        "releases": _releases(left),
        "servings": (left or {}).get("servings", []),
        "retention": kept and {name: value for name, value in kept.items() if name != "run"},
        "quarantined": (stands or _NO)["quarantined"],
    }
    if stands is not None and stands["damaged"]:
        found.unread.append(f"status: {stands['damaged']}")
    if made is not None:
        found.unread += [one for one in made.damaged if one not in found.unread]
    found.facts |= {
        "ok": not found.unread and stands is not None and stands["ok"] and checked is not None and checked["ok"],
        "not_read": found.unread,
    }
    return found


_NO: Mapping[str, Any] = {"requests": [], "quarantined": []}


def _model(spec: RunSpec, stands: dict[str, Any] | None, made: Made | None) -> dict[str, Any]:
    """The model as the run knows it. evaluation: of the model that the run has now; None where none was measured."""
    told = {name: value for name, value in spec.to_json().items() if name in _SPEC and value not in (None, "")}
    composed = None if stands is None else stands["composed"]
    latest = None if made is None else made.summary["measurements"].get("evaluation")
    fits = (
        latest is not None and stands is not None and stands["accuracy"] is not None and latest["composed"] == composed
    )
    shown = ("data", "n", "accuracy", "top5", "calibration_error")
    return {
        **told,
        "composed": composed,
        "created": None if made is None else made.state.created_time,
        "evaluation": {name: latest[name] for name in shown if latest.get(name) is not None}
        if fits and latest
        else None,
    }


def _data(found: Gathered, run: str, spec: RunSpec, stands: dict[str, Any] | None) -> dict[str, Any]:
    """The data statement. rejected: counts by reason, for a row's name may be a sample's id."""
    record = found.tried("ledger", lambda: Record(run))
    cached = record is not None and record.state.cached is not None
    listed = found.tried("rejected rows", lambda: rejected(run))
    added = [] if stands is None else stands.get("additions", [])
    return {
        "sources": [
            {"data": spec.data},
            *({"data": one["data"], "added": True, "samples": one["samples"]} for one in added),
        ],
        "counts": None if stands is None else stands["data"],
        "samples": None if stands is None else stands["samples"],
        "classes": [] if stands is None else stands["classes"],
        "owners": found.tried("owners", lambda: count_owners(record)) if cached and record is not None else None,
        "rejected": listed and {"rows": listed["rejected"], "reasons": listed["reasons"]},
    }


def _certificates(found: Gathered, store: Store, made: Made) -> dict[str, dict[str, Any]]:
    """The certificates by request, with their files: the bytes as they are stored, the signature, and a page of each."""
    known: dict[str, dict[str, Any]] = {}
    for certificate, key, request, problems in made.certificates:
        if _NAME.fullmatch(request) is None:
            found.unread.append(f"certificate of a request whose name is no file's: {request[:40]!r}")
            continue
        data = found.tried(key, lambda key=key: store.read(key))
        if data is None:
            continue
        name = f"certificates/{request}.json"
        found.files[name] = data
        found.pages[f"certificates/{request}.html"] = (certificate, key, (made.at, problems))
        finished = made.state.requests[request].forgotten
        known[request] = {
            "issued": certificate["issued"],
            "file": name,
            "digest": certificate["digest"],
            "bytes_digest": None if finished is None else finished.certificate.digest,
            "problems": problems,
            "does_not_cover": list(certificate["does_not_cover"]),
            "beyond_reach": list(certificate["beyond_reach"]),
            "signature": _signature(found, request, certificate.get("signature")),
        }
        if finished is not None and digest_bytes(data) != finished.certificate.digest:
            found.unread.append(f"{key}: its bytes are not those of the ledger's digest")
    return known


def _signature(found: Gathered, request: str, given: Mapping[str, str] | None) -> dict[str, str] | None:
    """The files by which openssl checks a signature, as the ledger has it."""
    if given is None:
        return None

    def read() -> dict[str, str]:
        key, raw = PublicKey.from_hex(given["public_key"], f"signature of {request}"), bytes.fromhex(given["signature"])
        paths = {
            "file": f"certificates/{request}.signature.json",
            "raw": f"certificates/{request}.sig",
            "key": f"keys/{key.fingerprint.removeprefix('sha256:')[:16]}.pem",
        }
        document = canonical_json({"request": request, **given})
        found.files |= {paths["file"]: document, paths["raw"]: raw, paths["key"]: key.pem}
        return {**paths, "fingerprint": key.fingerprint}

    return found.tried(f"signature of {request}", read)


def deadline_met(deadline: float | None, issued: str | None, now: float) -> bool | None:
    """Whether the certificate came in time (issued: ISO 8601); None where there is no deadline, or it is still to come."""
    if deadline is None:
        return None
    if issued is not None:
        return datetime.fromisoformat(issued).timestamp() <= deadline
    return False if deadline < now else None


def _request(one: Mapping[str, Any], certificate: dict[str, Any] | None, now: float) -> dict[str, Any]:
    """A request with its dates, and its certificate's files."""
    issued = None if certificate is None else certificate["issued"]
    shown = {name: value for name, value in (certificate or {}).items() if name not in ("does_not_cover", "issued")}
    return {
        **{name: one[name] for name in ("request", "mode", "samples", "done", "deadline")},
        "issued": issued,
        "deadline_met": deadline_met(one["deadline"], issued, now),
        "certificate": shown if certificate else None,
    }


def _not_covered(certificates: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The limits that the certificates name, each once."""
    return list(dict.fromkeys(text for one in certificates.values() for text in one["does_not_cover"]))


def _recorded_audits(found: Gathered, run: str) -> list[dict[str, Any]]:
    """The latest audit of each kind that was recorded in the run, with the ledger entry that it is of."""
    recorded = found.tried("recorded outcomes", lambda: outcomes_of(Record(run))) or []
    audits = []
    for one in recorded:
        if one.problem is not None:
            found.unread.append(f"recorded outcome: {one.problem}")
        if one.verb == VERIFY or one.outcome is None:
            continue
        sealed, answer = one.outcome.sealed, canonical_json({"run": run, **one.outcome.answer})
        told = found.tried(f"recorded outcome of {one.verb}", lambda answer=answer: _audit(answer))
        if told is not None:
            of = {"made": one.outcome.made, "entry": one.number, "since": one.since}
            audits.append({**told, "sha256": hashlib.sha256(sealed).hexdigest(), **of})
    return audits


def _audits(found: Gathered, store: Store) -> list[dict[str, Any]]:
    """The audits' answers that somebody kept as reports/audit*.json. Their file names are left out; they may name a person."""
    listed = found.tried("reports", lambda: [info.key for info in store.list(names.report_key("audit"))]) or []
    return [
        told
        for key in sorted(listed)
        if key.endswith(".json")
        for told in [found.tried(f"a kept audit of {names.REPORTS_FOLDER}", lambda key=key: _audit(store.read(key)))]
        if told is not None
    ]


def _audit(data: bytes) -> dict[str, Any]:
    given = json_object(data, "the file", "keep the answer of taft-ray audit --json")
    for kind in _AUDITS:
        fields = [one.name for one in dataclasses.fields(kind)]
        needed = [one.name for one in dataclasses.fields(kind) if one.default is dataclasses.MISSING]
        if all(name in given for name in needed):
            told = kind.from_json({name: given[name] for name in fields if name in given}).to_json()
            told.pop("run", None)
            return {"kind": kind.__name__, "sha256": hashlib.sha256(data).hexdigest(), "answer": told}
    raise TaftError("it is not the answer of an audit; keep that of taft-ray audit --json")


def _releases(told: dict[str, Any] | None) -> list[dict[str, Any]]:
    """The register of what left the house, without the people at the places where it went."""
    return [
        {
            **{name: value for name, value in one.items() if name not in ("contact", "notified")},
            "told": bool(one["notified"] or one.get("told")),
        }
        for one in (told or {"releases": []})["releases"]
    ]
