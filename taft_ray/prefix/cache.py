"""From source rows to the activation cache: index, manifest, and the frozen prefix once a picture.

Tokens travel nowhere but into storage: whoever makes them writes them, and only keys and references come back.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from safetensors.numpy import save

from taft_ray.data import (
    Stripe,
    build_manifest,
    counts,
    id_hash,
    owner_hash,
    place,
    reject,
    sample_keys,
    stripes,
)
from taft_ray.data.identical import contents_of, identical_counts, with_contents
from taft_ray.errors import IntegrityError, ObjectMissing, TooManyRejected
from taft_ray.plans.facts import Cached, ObjectRef
from taft_ray.plans.spec import RunSpec
from taft_ray.plans.state import RunState
from taft_ray.prefix.part_writer import marker_key
from taft_ray.prefix.passes import Indexed, Passes
from taft_ray.prefix.rejections import check_rows, list_key, remove_list
from taft_ray.progress import Report
from taft_ray.run.model import build_tangent
from taft_ray.storage import MALFORMED, Store, digest_bytes, json_object, write_rows
from taft_ray.storage import rundir as names

PART_ROWS = 64  # samples a cache part: what travels through the pipeline as one row
STRIPE_BYTES = 256 << 20  # encoded pictures held by a reading task
PART_FOLDERS = f"{names.CACHE_FOLDER}/shard={{shard:05d}}"  # where a pass over a run's data writes a shard's parts
BASE_KEY = f"{names.BASE_FOLDER}/base.safetensors"


@dataclass(frozen=True, kw_only=True)
class CacheResult:
    """A finished pass: the manifest with its parts, and what it took."""

    table: pa.Table
    parts: dict[str, list[dict[str, Any]]]
    classes: tuple[str, ...]
    fingerprint: str
    seconds: float
    prefix_seconds: float
    started: float
    ended: float
    images: int
    bytes: int
    forgotten: int  # rows of the source that were left out because they are forgotten


def build_cache(
    passes: Passes,
    store: Store,
    run: str,
    spec: RunSpec,
    *,
    source: Indexed,
    shards: int,
    assignment: str,
    folders: str,
    tombstones: RunState,
    secret: bytes | None,
    workers: int,
    report: Report,
    rows: int | None = None,
    first: int = 0,
) -> CacheResult:
    """Assign shards, run the prefix, write the parts; parts that a killed pass finished are not redone.

    rows: take at most so many of the source's rows, a random choice that is always the same; all by default.

    first: the number of the first shard.
    """
    started = time.time() - source.seconds
    files, index, names = source.files, source.rows, source.classes
    if rows is not None and rows < index.num_rows:
        drawn = sample_keys([f"{row}" for row in index["id"].to_pylist()], seed=0)
        index = index.take(pa.array(sorted(range(len(drawn)), key=drawn.__getitem__)[:rows]))
    indexed = index.num_rows
    index = without_forgotten(index, tombstones, secret)
    planned = build_manifest(index, classes=names, seed=spec.seed, shards=shards, method=assignment, first=first)  # type: ignore[arg-type]
    listed = list_key(folders)
    check_rows(store, planned, spec.max_rejected, listed)
    pieces = stripes(planned, files, budget_bytes=STRIPE_BYTES, part_rows=PART_ROWS)
    every = [part for piece in pieces for part in piece.parts]
    answers = _finished(store, folders, pieces)
    wanted = set(every) - answers.keys()
    total = sum(len(piece) for piece in pieces)
    done = sum(len(answer["keys"]) + len(answer["bad"]) for answer in answers.values())
    report("prefix", done, total)
    prefix_seconds = 0.0
    prefix_started = time.time()
    if wanted:
        todo = [piece.only(wanted) for piece in pieces]
        for answer in passes.parts([piece for piece in todo if len(piece)], run, spec, len(names), folders, workers):
            answers[answer["shard"], answer["part"]] = answer
            done += len(answer["keys"]) + len(answer["bad"])
            report("prefix", done, total)
        prefix_seconds = time.time() - prefix_started
    bad = {bytes.fromhex(key): why for answer in answers.values() for key, why in answer["bad"].items()}
    table = reject(planned, bad) if bad else planned
    try:
        check_rows(store, table, spec.max_rejected, listed)
    except TooManyRejected:
        for (shard, part), answer in answers.items():  # whoever mends these pictures has them read again
            if answer["bad"]:
                store.delete(marker_key(folders.format(shard=shard), part))
        raise
    remove_list(store, listed)
    placed = {where: [bytes.fromhex(key) for key in answer["keys"]] for where, answer in answers.items()}
    table = place(table, {where: keys for where, keys in placed.items() if keys})
    table = with_hashes(table, index, spec.seed, secret)
    if secret:
        table = with_contents(table, contents_of(answers.values()))
    parts: dict[str, list[dict[str, Any]]] = {}
    for (shard, _), answer in sorted(answers.items()):
        if answer["ref"] is not None:
            parts.setdefault(str(shard), []).append(answer["ref"])
    ended = time.time()
    return CacheResult(
        table=table,
        parts=parts,
        classes=names,
        fingerprint=next((a["fingerprint"] for a in answers.values()), ""),
        seconds=ended - started,
        prefix_seconds=prefix_seconds,
        started=started,
        ended=ended,
        images=len(table) - counts(table)["rejected"],
        bytes=sum(ref["bytes"] for refs in parts.values() for ref in refs),
        forgotten=indexed - index.num_rows,
    )


def make_parts(
    passes: Passes,
    store: Store,
    pieces: Sequence[Stripe],
    run: str,
    spec: RunSpec,
    classes: int,
    folders: str,
    workers: int,
) -> Iterator[dict[str, Any]]:
    """Make the parts of these stripes once more, for a repair: the answers of `PartWriter`. No marker is left."""
    try:
        yield from passes.parts(pieces, run, spec, classes, folders, workers)
    finally:
        store.erase([marker_key(folders.format(shard=shard), part) for piece in pieces for shard, part in piece.parts])


def without_forgotten(index: pa.Table, state: RunState, secret: bytes | None) -> pa.Table:
    """The index without forgotten samples and those of forgotten owners: not even as rejected rows do they come back."""
    if secret is None or not (state.tombstones or state.owner_tombstones):
        return index
    owners = {owner for owner in set(index["owner"].to_pylist()) if owner is not None}
    gone = {owner for owner in owners if owner_hash(owner, secret) in state.owner_tombstones}
    keep = [
        name is None or (owner not in gone and id_hash(name, secret) not in state.tombstones)
        for name, owner in zip(index["id"].to_pylist(), index["owner"].to_pylist(), strict=True)
    ]
    return index.filter(pa.array(keep, pa.bool_()))


def with_hashes(table: pa.Table, index: pa.Table, seed: int, secret: bytes | None) -> pa.Table:
    """Adds ``id_hash``, of rejected rows too, so that `verify` and a purge find forgotten samples without their ids."""
    ids = [name for name in index["id"].to_pylist() if name is not None]
    by_key = (
        {key: id_hash(name, secret) for key, name in zip(sample_keys(ids, seed), ids, strict=True)} if secret else {}
    )
    return table.append_column("id_hash", pa.array([by_key.get(key) for key in table["key"].to_pylist()], pa.string()))


def _finished(store: Store, folders: str, pieces: Sequence[Stripe]) -> dict[tuple[int, int], dict[str, Any]]:
    """Answers of an earlier pass over the same samples whose parts are still there, whole."""
    there = {info.key: info.size for info in store.list(f"{folders.split('/')[0]}/")}
    answers: dict[tuple[int, int], dict[str, Any]] = {}
    for (shard, part), keys in ((where, keys) for piece in pieces for where, keys in piece.keys_of_parts()):
        key = marker_key(folders.format(shard=shard), part)
        if key not in there:
            continue
        try:
            answer = json_object(store.read(key), key)
            ref = answer["ref"]
            intact = ref is None or there.get(ref["key"]) == ref["bytes"]
        except (ObjectMissing, IntegrityError, *MALFORMED):
            continue
        if intact and {*answer["keys"], *answer["bad"]} == {key.hex() for key in keys}:
            answers[shard, part] = answer
    return answers


def _written_base(store: Store, spec: RunSpec, classes: int) -> ObjectRef:
    tm, _ = build_tangent(spec, classes)
    base = save({name: value.cpu().numpy() for name, value in sorted(tm.base.items())})
    store.write(BASE_KEY, base)
    return ObjectRef(BASE_KEY, digest_bytes(base))


def cached_fact(store: Store, spec: RunSpec, result: CacheResult) -> Cached:
    """Write the manifest and the linearisation point of a finished pass; what the ledger says of them."""
    meta = {"parts": result.parts, "classes": list(result.classes), "fingerprint": result.fingerprint}
    manifest = write_rows(store, result.table, meta, version=0)
    point = None if spec.rows_alone else _written_base(store, spec, len(result.classes))  # else there is none
    samples = [sum(ref["rows"] for ref in result.parts.get(str(shard), [])) for shard in range(spec.shards)]
    return Cached(
        manifest=manifest.digest,
        manifest_key=manifest.key,
        base=point,
        samples=tuple(samples),
        counts={**counts(result.table), **identical_counts(result.table)},
        classes=tuple(result.classes),
        fingerprint=result.fingerprint,
        seconds=result.seconds,
        prefix_seconds=result.prefix_seconds,
        started=result.started,
        ended=result.ended,
        images=result.images,
        bytes=result.bytes,
        forgotten=result.forgotten,
    )
