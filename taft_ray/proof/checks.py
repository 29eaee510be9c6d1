"""The checks that `verify` makes, in its order. Each looks at one kind of object and goes on after a bad one."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from taft_ray.errors import IntegrityError, ObjectMissing
from taft_ray.plans.fold import replay
from taft_ray.plans.orphans import orphans, strangers
from taft_ray.proof.check_beside import strangers_beside_it, tombstones
from taft_ray.proof.check_cache import cache, evaluation_caches, manifest
from taft_ray.proof.check_certificates import certificates
from taft_ray.proof.check_choice import choice
from taft_ray.proof.check_outcomes import outcomes
from taft_ray.proof.check_privacy import privacy
from taft_ray.proof.check_quarantine import quarantine
from taft_ray.proof.check_releases import releases
from taft_ray.proof.check_signers import signers
from taft_ray.proof.evidence import Evidence, named
from taft_ray.run.sums import read_terms, snapshots_of
from taft_ray.storage import (
    Ledger,
    digest_bytes,
    digest_json,
    id_key,
    read_checkpoint,
)
from taft_ray.storage import rundir as names
from taft_ray.storage.digest import check_digest
from taft_ray.sums import Sums

_SCANNED = 64 << 20  # bytes: text larger than this is not searched for forgotten hashes
_HASH = 32  # characters of an id hash
_HEX = re.compile(rb"[0-9a-f]{32,}")
# Where the hash of a forgotten sample belongs; the page of a certificate is a copy of one
_HASHES_BELONG = (f"{names.LEDGER_FOLDER}/", f"{names.CERTIFICATES_FOLDER}/", f"{names.REPORTS_FOLDER}/certificate-")


def chain(run: Evidence) -> bool:
    """The ledger is one unbroken chain and its entries can be understood; without that nothing else can be judged."""
    before = len(run.problems)
    run.checks["ledger entries"] = 0
    with run.examining("ledger entries"):
        run.entries = Ledger(run.store).entries()
        run.state = replay(run.entries)
        run.checks["ledger entries"] = len(run.entries)
        created = run.state.created
        if created is not None and created.spec != digest_json(run.spec.to_json()):
            raise IntegrityError(f"{names.SPEC_KEY} is not the spec that {names.LEDGER_FOLDER} began with")
    return len(run.problems) == before


def secret(run: Evidence) -> None:
    """The key of the id hashes is the run's own. That it was destroyed is no fault: it is how tombstones become unreadable."""
    with run.examining("id key"):
        try:
            key = id_key(run.store, create=False)
        except ObjectMissing:
            if run.entries:
                run.notes.append(f"{names.ID_KEY} is not there: nobody can tell any more whom a tombstone names")
            return
        if run.state.key_destroyed:
            raise IntegrityError(f"{names.ID_KEY} was destroyed and is there again; remove it")
        expected = run.state.identity
        if expected and digest_bytes(key) != expected:
            raise IntegrityError(f"{names.ID_KEY} is not the key that the run began with; restore it from a copy")
        run.checks["id key"] = 1


def base(run: Evidence) -> None:
    """The linearisation point is the one committed."""
    ref = None if run.state.cached is None else run.state.cached.base
    if ref is None:
        return
    with run.examining("linearisation point"):
        check_digest(run.store.read(ref.key), ref.digest, f"{ref.key} in {run.store.uri}")
        run.checks["linearisation point"] = 1


def deltas(run: Evidence) -> None:
    """Every delta in the model has its digest; their sums compose to what the snapshots must be."""
    tiers, before = {tier: Sums() for tier in run.spec.tiers}, len(run.problems)
    members = [(shard, tier) for tier in tiers for shard in run.state.in_tier(tier)]
    for done, (shard, tier) in enumerate(members):
        run.report("verify deltas", done, len(members))
        ref = shard.member(tier)
        assert ref is not None
        with run.examining("deltas", shard.shard):
            tiers[tier].add(read_terms(run.store, ref, len(run.state.classes)), shard.weight)
    run.report("verify deltas", len(members), len(members))
    run.checks["deltas"] = len(run.state.in_model)
    if run.spec.two_tiers:
        run.checks["records"] = len(run.state.in_tier(by_records=True))
    monolith = run.state.monolith_delta
    if monolith is not None:
        with run.examining("deltas"):
            read_terms(run.store, monolith)
            run.checks["deltas"] += 1
    if len(run.problems) == before:
        with run.examining("deltas"):
            run.snapshots = snapshots_of(run.spec, tiers)
            if run.spec.additive:
                rows = tiers[run.spec.two_tiers]
                run.sums = {name: total.numpy() for name, total in rows.totals.items()} if rows.weight else None
                _same_sums(run)


def _same_sums(run: Evidence) -> None:
    """Whole numbers are the same on every machine: the digest that the ledger has of the present sums is that of the rows."""
    mode = run.spec.compose
    of = run.state.members_of(run.spec.by_records(mode))
    for composed in run.state.compositions:
        if (
            composed.mode == mode
            and composed.of == of
            and names.composed_key(composed.digest) not in (run.snapshots or {})
        ):
            raise IntegrityError(
                f"the ledger has the digest {composed.digest[:16]} of these shards' sums, which is not that of their rows"
            )


def checkpoints(run: Evidence) -> None:
    """Every slice checkpoint that a fit may go on from has its digest."""
    refs = [ref for shard in run.state.shards.values() for ref in shard.checkpoints]
    for ref in refs:
        with run.examining("slice checkpoints"):
            read_checkpoint(run.store, ref)
    run.checks["slice checkpoints"] = len(refs)


def snapshots(run: Evidence) -> None:
    """Every snapshot is, to the byte, what the deltas in the model compose to."""
    if run.snapshots is None:
        return
    found = [key for key in run.sizes if key.startswith(f"{names.COMPOSED_FOLDER}/")]
    for key in found:
        with run.examining("snapshots"):
            if key not in run.snapshots:
                raise IntegrityError(
                    f"{key} is not what the deltas in the model compose to: nothing refers to it; taft-ray gc removes it"
                )
            check_digest(run.store.read(key), run.snapshots[key], f"{key} in {run.store.uri}")
    run.checks["snapshots"] = len(found)


def forgotten_hashes(run: Evidence) -> None:
    """The hash of a forgotten sample is in no name, and in no text outside the ledger and the certificates."""
    tombstones = {digest.encode() for digest in run.state.tombstones}
    if not tombstones:
        return
    looked = 0
    for key, size in run.sizes.items():
        if key.startswith(_HASHES_BELONG):
            continue
        looked += 1
        with run.examining("forgotten hashes"):
            text = key.encode()
            if key.endswith((".json", ".html")) and size <= _SCANNED:
                text += b"\n" + run.store.read(key)
            if any(window in tombstones for window in _windows(text)):
                raise IntegrityError(f"{key} has the hash of a forgotten sample; remove it")
    run.checks["objects without forgotten hashes"] = looked


def _windows(text: bytes) -> Iterator[bytes]:
    """Every run of as many hexadecimal characters as an id hash has."""
    for found in _HEX.finditer(text):
        for start in range(found.start(), found.end() - _HASH + 1):
            yield text[start : start + _HASH]


def unknown_objects(run: Evidence) -> None:
    """Nothing lies about that no record names."""
    unread = () if run.manifest is not None else (f"{names.CACHE_FOLDER}/", f"{names.MANIFEST_FOLDER}/")
    if run.state.cached is None:
        unread = ()
    if run.snapshots is None:
        unread = (*unread, f"{names.COMPOSED_FOLDER}/")
    # objects that could not be read are problems already, and `snapshots` names those that should not be there
    keys = [key for key in run.sizes if not key.startswith((*unread, f"{names.COMPOSED_FOLDER}/"))]
    about = (run.state, run.parts, {*(run.snapshots or ())}, () if run.manifest is None else run.manifest.keys)
    left, strange = orphans(keys, *about), strangers(keys, *about)
    run.checks["objects nothing refers to"] = len(left) + len(strange)
    proofs = [key for key in left if key.startswith(f"{names.CERTIFICATES_FOLDER}/")]
    if proofs:
        run.problems.append(
            f"the ledger does not know {named(proofs)}: its newest entries may have been cut off (verify --head tells); "
            "restore the ledger from a copy before anything is collected"
        )
    if others := [key for key in left if key not in proofs]:
        run.problems.append(f"nothing refers to {named(others)}; taft-ray gc removes them")
    if strange:
        run.problems.append(f"{named(strange)}: no part of a run; look at them, and remove them")


Check = Callable[[Evidence], None]
AFTER_THE_CHAIN: tuple[Check, ...] = (
    secret,
    manifest,
    cache,
    base,
    checkpoints,
    deltas,
    choice,
    privacy,
    quarantine,
    snapshots,
    certificates,
    signers,
    releases,
    evaluation_caches,
    outcomes,
    forgotten_hashes,
    tombstones,
    strangers_beside_it,
    unknown_objects,
)
