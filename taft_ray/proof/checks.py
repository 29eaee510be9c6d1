"""The checks that `verify` makes, in its order. Each looks at one kind of object and goes on after a bad one."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

import pyarrow as pa

from taft_ray.counting import are, plural, which
from taft_ray.errors import IntegrityError, ObjectMissing
from taft_ray.plans.facts import Forgotten
from taft_ray.plans.fold import Replayed, replay
from taft_ray.plans.orphans import orphans, strangers
from taft_ray.plans.state import RunState
from taft_ray.proof.certificate import open_certificate
from taft_ray.proof.check_beside import strangers_beside_it, tombstones
from taft_ray.proof.check_choice import choice
from taft_ray.proof.check_outcomes import outcomes
from taft_ray.proof.check_privacy import privacy
from taft_ray.proof.check_quarantine import quarantine
from taft_ray.proof.check_releases import releases
from taft_ray.proof.check_signers import signers
from taft_ray.proof.contradictions import contradictions, inconsistencies
from taft_ray.proof.evidence import Evidence, Findings
from taft_ray.proof.signature import check_signature
from taft_ray.run.sums import read_terms, snapshots_of
from taft_ray.storage import (
    Ledger,
    Manifest,
    PartRef,
    digest_bytes,
    digest_json,
    id_key,
    read_checkpoint,
    read_manifest,
    read_part,
)
from taft_ray.storage import rundir as names
from taft_ray.storage.digest import check_digest
from taft_ray.storage.manifest import MANIFEST_KEY
from taft_ray.sums import Sums

_SHOWN = 100  # names in one problem
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


def manifest(run: Evidence) -> None:
    """The manifest is the one last committed, counts what the ledger counts, and has no forgotten sample."""
    with run.examining("manifest"):
        found = read_manifest(run.store)
        if found is None:
            if run.state.cached is not None:
                raise IntegrityError(f"the manifest {MANIFEST_KEY} is gone; restore it from a copy")
            return
        committed = _committed_manifest(run.state)
        if committed is not None and found.digest != committed:
            raise IntegrityError(f"the manifest {found.key} is not the one that the ledger committed")
        run.manifest = found
        _no_forgotten(run, found.table, found.key)
        for number, shard in run.state.shards.items() if committed is not None else ():
            rows = sum(ref["rows"] for ref in run.parts.get(str(number), []))
            if rows != shard.samples:
                raise IntegrityError(f"{found.key} has {rows} samples in shard {number}, the ledger {shard.samples}")
        run.checks["manifest rows"] = found.table.num_rows


def _committed_manifest(state: RunState) -> str | None:
    """The digest of the manifest last committed: by the prefix pass, or by the latest purge."""
    if any(request.purged is None and request.dropped is not None for request in state.requests.values()):
        return None  # a purge is under way: either manifest may be there
    return state.manifest


def _no_forgotten(run: Evidence, table: pa.Table, where: str) -> None:
    if "id_hash" not in table.column_names:
        return
    forgotten = set(table["id_hash"].to_pylist()) & run.state.forgotten()
    if forgotten:
        raise IntegrityError(
            f"{plural(len(forgotten), 'forgotten sample is', 'forgotten samples are')} still in {where}"
        )


def cache(run: Evidence) -> None:
    """Every cached sample is where the manifest places it, once; the deltas in the model were fitted on just these parts."""
    if run.manifest is None:
        return
    run.checks["cached samples"] = _parts(run, "cached samples", run.manifest)
    fitted = {(fit.shard, fit.generation): fit.parts for fit in run.state.fits}
    with run.examining("cached samples"):
        for shard in run.state.in_model:
            saw = fitted.get((shard.shard, shard.generation))
            if saw is not None and list(saw) != [ref["digest"] for ref in run.parts.get(str(shard.shard), [])]:
                raise IntegrityError(
                    f"{names.shard_prefix(shard.shard)} is not what the delta of shard {shard.shard} was fitted on; "
                    "restore the cache from a copy, or train the shard again"
                )


def _parts(run: Evidence, what: str, manifest: Manifest) -> int:
    """Read every part, one at a time; returns how many samples they hold."""
    columns = [manifest.table[name].to_pylist() for name in ("key", "shard", "label", "status", "part_row")]
    # a kept sample at no row lost its tokens with a damaged part, and its shard is in quarantine
    expected = {
        key: (shard, label)
        for key, shard, label, status, row in zip(*columns, strict=True)
        if status == "kept" and row is not None
    }
    held: set[bytes] = set()
    refs = [(int(shard), ref) for shard, several in manifest.parts.items() for ref in several]
    before = len(run.problems)
    for done, (shard, ref) in enumerate(refs):
        run.report("verify cache", done, len(refs))
        with run.examining(what, shard if manifest is run.manifest else None):
            part = read_part(run.store, PartRef.from_json(ref), fingerprint=manifest.fingerprint)
            for key, label in zip(part.keys, part.labels.tolist(), strict=True):
                if expected.get(key) != (shard, label):
                    raise IntegrityError(f"{ref['key']} holds a sample that the manifest does not place there")
                if key in held:
                    raise IntegrityError(f"{ref['key']} holds a sample that another part holds too")
                held.add(key)
    run.report("verify cache", len(refs), len(refs))
    if len(held) != len(expected) and len(run.problems) == before:
        run.problems.append(f"{what}: the cache holds {len(held)} samples, the manifest keeps {len(expected)}")
    return len(held)


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


def certificates(run: Evidence) -> None:
    """Every certificate and signature is the one committed, agrees with itself, and stands in the chain as it says."""
    done = [(request, request.forgotten) for request in run.state.requests.values() if request.forgotten is not None]
    made = {entry.body["request"]: entry.number for entry in run.entries if entry.kind == Forgotten.KIND}
    replayed, found = Replayed(run.entries), dict[str, Findings]()
    # in the order in which they were made, so that the ledger is folded once; told in the order of the requests
    for request, finished in sorted(done, key=lambda one: made[one[0].request]):
        ref, mine = finished.certificate, found.setdefault(request.request, Findings())
        with mine.examining("certificates"):
            data = run.store.read(ref.key)
            if digest_bytes(data) != ref.digest:
                raise IntegrityError(f"{ref.key} was changed: its digest is not the ledger's")
            certificate, _ = open_certificate(data, ref.key)
            for wrong in [
                *inconsistencies(certificate), *contradictions(certificate, run.entries, run.state, replayed)
            ]:  # fmt: skip
                mine.problems.append(f"certificates: {ref.key}: {wrong}")
    run.problems += [problem for request, _ in done for problem in found[request.request].problems]
    run.checks["certificates"] = len(done)
    signed = [request for request, _ in done if request.signed is not None]
    for request in signed:
        with run.examining("signatures"):
            check_signature(run.store, request)
    run.checks["signatures"] = len(signed)
    unfinished = [r.request for r in run.state.requests.values() if r.forgotten is None and not r.waiting]
    if unfinished:
        run.problems.append(
            f"{which('forget request', unfinished)} {are(len(unfinished))} not finished; `taft-ray forget {run.store.uri} --due` goes on"
        )


def evaluation_caches(run: Evidence) -> None:
    """The caches of evaluation data are whole, and hold no forgotten sample."""
    folders = {"/".join(key.split("/")[:2]) for key in run.sizes if key.startswith(f"{names.EVAL_FOLDER}/")}
    run.checks["evaluation samples"] = 0
    for folder in sorted(folders):
        with run.examining("evaluation caches"):
            run.checks["evaluation samples"] += _evaluation_cache(run, folder)


def _evaluation_cache(run: Evidence, folder: str) -> int:
    found = read_manifest(run.store.inside(folder))
    if found is None:
        raise IntegrityError(
            f"{folder}/{MANIFEST_KEY} is missing: an evaluation was cut off; evaluate again, or remove the folder"
        )
    _no_forgotten(run, found.table, f"{folder}/{found.key}")
    known = {ref["key"] for ref in found.refs}
    known |= {f"{folder}/{key}" for key in (*found.keys, MANIFEST_KEY)}
    unknown = [key for key in run.sizes if key.startswith(f"{folder}/") and key not in known]
    if unknown:
        run.problems.append(f"evaluation caches: nothing refers to {_named(unknown)}; remove the folder {folder}")
    return _parts(run, "evaluation caches", found)


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
            f"the ledger does not know {_named(proofs)}: its newest entries may have been cut off (verify --head tells); "
            "restore the ledger from a copy before anything is collected"
        )
    if others := [key for key in left if key not in proofs]:
        run.problems.append(f"nothing refers to {_named(others)}; taft-ray gc removes them")
    if strange:
        run.problems.append(f"{_named(strange)}: no part of a run; look at them, and remove them")


def _named(keys: Sequence[str]) -> str:
    more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
    return ", ".join(keys[:_SHOWN]) + more


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
