"""The list of a run's samples, made again from the source and the cache where its object is damaged.

It is taken only when it has, to the byte, the digest that the ledger commits to: so nothing can be slipped in this way.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from taft_ray.data import SourceFile, Stripe, build_manifest, place, read_stripe, reject, stripes
from taft_ray.data.identical import with_contents
from taft_ray.data.keys import content_hash, picture_digest
from taft_ray.data.manifest import KEPT
from taft_ray.errors import DataError, IntegrityError
from taft_ray.models import load_model
from taft_ray.plans.spec import RunSpec
from taft_ray.plans.state import RunState
from taft_ray.prefix.cache import PART_ROWS, STRIPE_BYTES, with_hashes
from taft_ray.prefix.cached_parts import cached_parts
from taft_ray.prefix.passes import Passes, index_source
from taft_ray.prefix.pictures import decoded
from taft_ray.storage import Store, write_rows
from taft_ray.storage import rundir as names


def manifest_again(
    passes: Passes, store: Store, spec: RunSpec, state: RunState, *, data: str, secret: bytes | None
) -> None:
    """Write the manifest again; IntegrityError where what comes out is not the one that the ledger commits to."""
    key, cached = str(state.manifest_key), state.cached
    assert cached is not None  # the ledger names a manifest
    parts = cached_parts(store, state)
    held = {sample for several in parts.values() for part in several for sample in part["keys"]}
    try:
        source = index_source(passes, data, cached.classes)
        table, pieces = _table(spec, state, source.files, source.rows, cached.classes, held, secret)
        tables = [table if secret is None else with_contents(table, _contents(pieces, secret)), table]
    except DataError as error:
        raise _not_the_same(store, key, f"the source cannot be read as it was: {error}") from error
    refs = {
        str(shard): [{name: value for name, value in part.items() if name != "keys"} for part in several]
        for shard, several in parts.items()
    }
    meta = {"parts": refs, "classes": list(cached.classes), "fingerprint": cached.fingerprint}
    for one in tables:  # the second as earlier versions wrote it, without hashes of the pictures
        made = write_rows(store, one, meta, names.manifest_version(key))
        if made.key == key:
            return
        store.erase([made.key])
    raise _not_the_same(store, key, "made again from the source and the cache it is another one")


def _not_the_same(store: Store, key: str, why: str) -> IntegrityError:
    return IntegrityError(
        f"{key} in {store.uri} is damaged, and {why}. Restore it from a copy, or give the source as it was (--data); requests "
        "to forget are recorded meanwhile, and by hash assignment their shards leave the model"
    )


def _table(
    spec: RunSpec,
    state: RunState,
    files: Sequence[SourceFile],
    index: pa.Table,
    classes: Sequence[str],
    held: set[bytes],
    secret: bytes | None,
) -> tuple[pa.Table, list[Stripe]]:
    """The manifest as the prefix pass made it, without what was purged since; and how its pictures are read."""
    planned = build_manifest(index, classes=classes, seed=spec.seed, shards=spec.shards, method=spec.assignment)  # type: ignore[arg-type]
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
    return table.filter(pc.invert(gone)) if purged else table, pieces  # type: ignore[attr-defined]


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
