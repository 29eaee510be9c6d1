"""The list of a run's samples, made again from the source and the cache where its object is damaged.

It is taken only when it has, to the byte, the digest that the ledger commits to: so nothing can be slipped in this way.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from taft_ray.data import SourceFile, Stripe, build_manifest, place, read_stripe, reject, sample_keys, stripes
from taft_ray.data.identical import with_contents
from taft_ray.data.keys import content_hash, picture_digest
from taft_ray.data.manifest import KEPT
from taft_ray.errors import DataError, IntegrityError, ObjectMissing
from taft_ray.models import load_model
from taft_ray.plans.additions import Added
from taft_ray.plans.spec import RunSpec
from taft_ray.plans.state import RunState
from taft_ray.prefix.cache import PART_ROWS, STRIPE_BYTES, with_hashes, without_forgotten
from taft_ray.prefix.cached_parts import cached_parts
from taft_ray.prefix.passes import Passes, index_source
from taft_ray.prefix.pictures import decoded
from taft_ray.storage import Store, filled, read_pointer, read_rows, write_again, write_rows
from taft_ray.storage import rundir as names


def manifest_again(
    passes: Passes, store: Store, spec: RunSpec, state: RunState, *, data: str | None, secret: bytes | None
) -> None:
    """Write the manifest again; IntegrityError where what comes out is not the one that the ledger commits to.

    data: where the source lies now; what the run began with, and what was added, are each read where they were by default.
    """
    key, cached = str(state.manifest_key), state.cached
    assert cached is not None  # the ledger names a manifest
    parts = cached_parts(store, state)
    held = {sample for several in parts.values() for part in several for sample in part["keys"]}
    try:
        read = [_of_first(passes, spec, state, data or spec.data, held, secret)]
        for one in state.additions:
            known = set().union(*(past.keys for past in read))
            read.append(_of_addition(passes, spec, state, one, data or one.data, known, held, secret))
        plain = [one.table for one in read]
        hashed = plain if secret is None else [with_contents(one.table, _contents(one.pieces, secret)) for one in read]
        tables = [_in_order(hashed), _in_order(plain)]
    except DataError as error:
        raise _not_the_same(store, key, f"the source cannot be read as it was: {error}") from error
    refs = {
        str(shard): [{name: value for name, value in part.items() if name != "keys"} for part in several]
        for shard, several in parts.items()
    }
    meta = {"parts": refs, "classes": list(state.classes), "fingerprint": cached.fingerprint}
    named = _meta_of(store, state)
    wanted = {key} if named is None else filled(store, key, named, tables[0], refs).keys
    for one in tables:  # the second as earlier versions wrote it, without hashes of the pictures
        if named is None:
            made = write_rows(store, one, meta, names.manifest_version(key))
        else:
            made = write_again(store, filled(store, key, named, one, refs))
        if made.key == key and (named is None or made.keys == wanted):
            return
        store.erase(sorted(made.keys - wanted))
    raise _not_the_same(store, key, "made again from the source and the cache it is another one")


def _meta_of(store: Store, state: RunState) -> Mapping[str, Any] | None:
    """The manifest's meta, by its head or by the copy in the JSON; None where it has no segments."""
    key, digest = str(state.manifest_key), str(state.manifest)
    meta: Mapping[str, Any] = {}
    try:
        meta = read_rows(store, key, digest).meta
    except (IntegrityError, ObjectMissing):
        with suppress(IntegrityError):
            pointer = read_pointer(store) or {}
            meta = pointer["meta"] if pointer.get("key") == key else {}
    return meta if "segments" in meta else None


def _not_the_same(store: Store, key: str, why: str) -> IntegrityError:
    return IntegrityError(
        f"{key} in {store.uri} is damaged, and {why}. Restore it from a copy, or give the source as it was (--data); requests "
        "to forget are recorded meanwhile, and by hash assignment their shards leave the model"
    )


@dataclass(frozen=True)
class _Read:
    """Rows as a prefix pass made them, without those purged since, how their pictures are read, and the keys of all."""

    table: pa.Table
    pieces: list[Stripe]
    keys: set[bytes]


def _of_first(
    passes: Passes, spec: RunSpec, state: RunState, data: str, held: set[bytes], secret: bytes | None
) -> _Read:
    """The data that the run began with."""
    assert state.cached is not None
    source = index_source(passes, data, state.cached.classes)
    return _table(spec, state, source.files, source.rows, state.cached.classes, range(spec.shards), held, secret)


def _of_addition(
    passes: Passes,
    spec: RunSpec,
    state: RunState,
    added: Added,
    data: str,
    known: set[bytes],
    held: set[bytes],
    secret: bytes | None,
) -> _Read:
    """Data that was added. known: the keys of all that the run had until then, which were not taken twice."""
    source = index_source(passes, data, added.classes)
    keys = sample_keys([name if name is not None else "" for name in source.rows["id"].to_pylist()], spec.seed)
    rows = source.rows.filter(pa.array([key not in known for key in keys], pa.bool_()))
    # forgotten before, and so left out; what was forgotten since was taken, and purged
    before = list(state.requests.values())[: added.requests]
    then = RunState(
        tombstones={digest: one.request for one in before for digest in one.hashes},
        owner_tombstones={digest: one.request for one in before for digest in one.owners},
    )
    rows = without_forgotten(rows, then, secret)
    return _table(spec, state, source.files, rows, added.classes, added.shards, held, secret)


def _in_order(tables: Sequence[pa.Table]) -> pa.Table:
    """Rows of several data sets as a manifest has them: the rejected first."""
    if len(tables) == 1:
        return tables[0]
    rejected = [table.filter(pc.less(table["shard"], 0)) for table in tables]  # type: ignore[attr-defined]  # made at import
    kept = [table.filter(pc.greater_equal(table["shard"], 0)) for table in tables]  # type: ignore[attr-defined]
    return pa.concat_tables([*rejected, *kept], promote_options="default").combine_chunks()


def _table(
    spec: RunSpec,
    state: RunState,
    files: Sequence[SourceFile],
    index: pa.Table,
    classes: Sequence[str],
    shards: range,
    held: set[bytes],
    secret: bytes | None,
) -> _Read:
    method: Any = spec.assignment
    planned = build_manifest(
        index, classes=classes, seed=spec.seed, shards=len(shards), method=method, first=shards.start
    )
    hashed = with_hashes(planned, index, spec.seed, secret)
    purged = {digest for r in state.requests.values() if r.rewritten is not None for digest in r.hashes}
    columns = (hashed[name].to_pylist() for name in ("key", "id_hash", "status"))
    missing = {
        key
        for key, digest, status in zip(*columns, strict=True)
        if status == KEPT and key not in held and digest not in purged
    }
    pieces = stripes(planned, files, budget_bytes=STRIPE_BYTES, part_rows=PART_ROWS)
    bad = _undecodable(spec, pieces, missing)
    placed = {
        (int(piece.shard[at]), int(piece.part[at])): [
            key.tobytes() for key in piece.key[at:end] if key.tobytes() not in bad
        ]
        for piece in pieces
        for at, end in _spans(piece)
    }
    table = place(reject(planned, bad) if bad else planned, {where: keys for where, keys in placed.items() if keys})
    table = with_hashes(table, index, spec.seed, secret)
    gone = pc.is_in(table["id_hash"], value_set=pa.array(sorted(purged), pa.string()))  # type: ignore[attr-defined]  # made at import
    left = table.filter(pc.invert(gone)) if purged else table  # type: ignore[attr-defined]
    return _Read(left, pieces, set(planned["key"].to_pylist()))


def _contents(pieces: Sequence[Stripe], secret: bytes) -> dict[bytes, bytes]:
    """The content hash of every picture of the source."""
    return {
        key: content_hash(picture_digest(image or b""), secret)
        for piece in pieces
        for part in read_stripe(piece)
        for key, image in zip(part["keys"], part["images"], strict=True)
    }


def _spans(piece: Stripe) -> Iterator[tuple[int, int]]:
    """Where each of a stripe's parts begins and ends."""
    at = 0
    for rows in piece.rows.values():
        yield at, at + rows
        at += rows


def _undecodable(spec: RunSpec, pieces: Sequence[Stripe], missing: set[bytes]) -> Mapping[bytes, str]:
    """Why these samples are in no part: their pictures could not be decoded then, and cannot now."""
    if not missing:
        return {}
    size = load_model(spec.model, spec.weights, spec.image_size).preprocess.size
    where = {
        (int(piece.shard[at]), int(piece.part[at]))
        for piece in pieces
        for at, end in _spans(piece)
        if any(key.tobytes() in missing for key in piece.key[at:end])
    }
    bad: dict[bytes, str] = {}
    for piece in pieces:
        for part in read_stripe(piece.only(where)):
            mine = [
                (key, image or b"") for key, image in zip(part["keys"], part["images"], strict=True) if key in missing
            ]
            reasons = decoded([image for _, image in mine], size, spec.exif_orientation)
            bad |= {key: why for (key, _), why in zip(mine, reasons, strict=True) if isinstance(why, str)}
    return bad
