"""The register of releases: what is written of a file before it leaves the house, and what it is refused for.

Order: the file is made under a name that nobody reads. Its release is committed, and kept beside the run. Then the file gets its own
name. So a crash leaves a release without its file, and never a file without its release.

Guarantees: a release is committed on exactly the entries before it. A model that holds what was forgotten up to there is refused.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from taft_ray.additive.options import ADDITIVE
from taft_ray.counting import are, which
from taft_ray.data import owner_hash
from taft_ray.errors import (
    CommitConflict,
    CommitUnknown,
    PublicationHeld,
    StorageError,
    TaftError,
    Unregistered,
    UsageError,
)
from taft_ray.plans.facts import fact_of
from taft_ray.plans.gate import hold
from taft_ray.plans.recalls import has_left, holds, policy_digest, unplaced
from taft_ray.plans.releases import Released
from taft_ray.run.owned import hashes_of_owners
from taft_ray.run.record import Record
from taft_ray.run.secret import secret_of
from taft_ray.storage import KeptReleases, digest_json

_MOST = 200  # characters of a recipient or a contact


@dataclass(frozen=True, kw_only=True)
class Recipient:
    """Where a release goes.

    to: a name or a URL. contact: whom a recall is told. until: unix seconds, when it is over.

    Raises UsageError for an empty or long text, and for a time that has passed.
    """

    to: str | None = None
    contact: str | None = None
    until: float | None = None

    def __post_init__(self) -> None:
        for name, text in (("to", self.to), ("contact", self.contact)):
            if text is not None:
                check_line(name, text)
        if self.until is not None and not self.until > time.time():
            raise UsageError("--until has passed; give a later time, or leave it out")


NOBODY = Recipient()


def check_line(option: str, text: str) -> None:
    """UsageError for a text that the ledger would not keep: an empty one, a long one, or more than a line."""
    if not text.strip() or len(text) > _MOST or not text.isprintable():
        raise UsageError(f"--{option} {text[:40]!r}: expected a line of text with at most {_MOST} characters")


def new_name() -> str:
    """The name of a release: 16 hexadecimal characters that no other has."""
    return secrets.token_hex(8)


def file_digest(path: Path) -> str:
    """SHA-256 of a file, as ``sha256sum`` says it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def made_of(record: Record, what: str, composed: str | None, mode: str | None, owners: Sequence[str] = ()) -> Released:
    """A release of the model by the state as last read, before there is a file of it and a name for it."""
    state, spec = record.state, record.spec
    newest = record.ledger.since(state.entries - 1)[0]
    by_records = spec.by_records(mode or spec.compose)
    secret = secret_of(record.store)
    fact = Released(
        "",
        what,
        "",
        0,
        newest.number,
        newest.digest,
        composed,
        mode,
        state.members_of(by_records),
        by_records=by_records,
        policy=policy_digest(state) if mode == ADDITIVE else None,
        owners=tuple(sorted(owner_hash(name, secret) for name in owners)) if secret else (),
        samples=tuple(hashes_of_owners(record, owners)) if owners else (),
    )
    return replace(fact, shards=tuple(shard.shard for shard in state.in_tier(by_records))) if fact.is_model else fact


def sent_to(fact: Released, recipient: Recipient) -> Released:
    """The release with where it goes."""
    return replace(fact, to=recipient.to, contact=recipient.contact, until=recipient.until)


def check(record: Record, fact: Released, now: bool) -> str | None:
    """The gate that ``now`` overrides, None where none holds this model back.

    PublicationHeld where one does; TaftError for a model that holds what was forgotten, whatever ``now`` says.
    """
    if not fact.is_model:
        return None
    state = record.state
    if held := [*holds(state, fact), *unplaced(state)]:
        raise TaftError(
            f"{which('forget request', held)} {are(len(held))} not carried out yet, or began while this model was made: it is "
            f"never published. Run taft-ray forget {record.store.uri} --due, then the same command again"
        )
    found = hold(state, record.spec, time.time(), fact.composed)
    if found is not None and not now:
        raise PublicationHeld(f"{found}. Wait for that, or add --now, and the ledger says that the gate was overridden")
    return None if found is None else str(found.gate)


def commit(record: Record, fact: Released, now: bool = False) -> Released:
    """Register a release that has its name and its digest; errors as of `check`, and StorageError where nothing can be written."""

    def decide() -> Released:
        return replace(fact, overrode=check(record, fact, now))

    try:
        made = record.commit(Released, _op(fact), decide) or fact
        _keep(record, made)
        return made
    except (CommitConflict, CommitUnknown):  # it can be written, and others are at it
        raise
    except StorageError as error:
        raise Unregistered(
            f"{error}. A file leaves this run when it is registered in its ledger, so nothing was written. Make the storage "
            "writable; where that cannot be, --no-register writes a file that says that it is not registered"
        ) from error


def served(record: Record, fact: Released) -> Released | None:
    """The release of a served model (`made_of`) with its name; None where it is the latest of its line, and holds nothing forgotten.

    The name follows from what was released before, so that replicas that register one model at once make one release.
    """
    latest = next((one for one in reversed(record.state.releases.values()) if one.line == fact.line), None)
    if latest is not None and latest.fact.composed == fact.composed and not holds(record.state, latest.fact):
        return None
    assert fact.composed is not None
    before = None if latest is None else latest.fact.release
    name = digest_json([fact.what, fact.composed, fact.mode, list(fact.owners), before])[:16]
    return replace(fact, release=name, digest=fact.composed)


def _op(fact: Released) -> str:
    return f"{fact.release}/released"


def _keep(record: Record, fact: Released) -> None:
    """Keep a release beside the run, with the forgets that its model is without."""
    state = record.state
    left = tuple(one.request for one in state.requests.values() if has_left(one, fact))
    KeptReleases(record.store, state.identity).write(fact.release, replace(fact, restored=True, left=left).to_json())


def restore(record: Record) -> None:
    """Register again what was released after this copy of the folder was made."""
    beside = KeptReleases(record.store, record.state.identity)
    kept = beside.names()
    if not kept - record.state.releases.keys():
        return
    record.refresh()  # after the listing: what is kept was committed before
    for facts in beside.read(kept - record.state.releases.keys()):
        fact = fact_of(Released, facts)
        record.commit(Released, _op(fact), lambda fact=fact: fact)
