"""The manifest: a row per source row, kept or rejected; Parquet files that describe themselves, and a JSON that names one.

A small manifest is one object. A large one is a head and segments. A segment holds the rows of some neighbouring shards, and
their cache parts. The head holds the rejected rows and the digest of each segment. So the manifest's digest is the head's, and
whoever needs a few shards reads and writes a few objects.

Whoever commits to a manifest's digest says that this manifest holds. For a run that is the ledger: `write_rows`, then a
commit, then `point_manifest`. The run's JSON is a copy for readers without a ledger. For an evaluation cache it is the JSON
itself (`write_manifest`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from taft_ray.errors import IntegrityError, ObjectMissing
from taft_ray.storage.digest import canonical_json, check_digest, digest_bytes, seal, unseal
from taft_ray.storage.json_text import MALFORMED, parse_json
from taft_ray.storage.objects import Store

FOLDER = "manifest"
MANIFEST_KEY = f"{FOLDER}/_MANIFEST.json"

ROWS = f"{FOLDER}/rows-"
"""What the keys of rows files start with."""
SEGMENT_ROWS = 8192
"""A manifest with more rows, of several shards, is kept in segments of about so many."""
_SEAL = "self"
_META = b"taft_ray"
_SEGMENTS, _PARTS = "segments", "parts"  # in the meta of a head, and of a manifest that is one object or a segment
_REJECTED, _KEPT = (-1, -1), (0, 2**31 - 1)  # shards
_ATTEMPTS = 3
_AT_ONCE = 8  # objects that are read or written side by side

A = TypeVar("A")
B = TypeVar("B")

Parts = Mapping[str, list[dict[str, Any]]]
"""The cache parts of each shard: `PartRef` as JSON, with the number of the "part"."""


class Segment:
    """The rows of the shards from `first` to `last`, and their cache parts; read when they are first asked for."""

    def __init__(self, store: Store, key: str, digest: str, num_rows: int, first: int, last: int) -> None:
        self.store, self.key, self.digest = store, key, digest
        self.num_rows, self.first, self.last = num_rows, first, last

    @cached_property
    def content(self) -> tuple[pa.Table, Parts]:
        """Raises `ObjectMissing` when it is not there, and `IntegrityError` when a byte differs."""
        where = f"{self.key} in {self.store.uri}"
        data = self.store.read(self.key)
        check_digest(data, self.digest, where)
        table, meta = _table(data, where)
        return table, meta[_PARTS]

    def named(self) -> dict[str, Any]:
        """How the head names it."""
        return {"key": self.key, "digest": self.digest, "rows": self.num_rows, "shards": [self.first, self.last]}


@dataclass(frozen=True, eq=False)
class Manifest:
    """The rows, the object that holds or heads them, and what is in it beside them: `meta`."""

    own: pa.Table
    key: str
    digest: str
    meta: Mapping[str, Any]
    segments: Sequence[Segment] = ()

    @property
    def num_rows(self) -> int:
        return self.own.num_rows + sum(segment.num_rows for segment in self.segments)

    @property
    def objects(self) -> tuple[Manifest | Segment, ...]:
        """Every object of it; each has a `key` and a `digest`."""
        return (self, *self.segments)

    @property
    def keys(self) -> set[str]:
        """The keys of its objects."""
        return {one.key for one in self.objects}

    @cached_property
    def table(self) -> pa.Table:
        """All rows. Like whatever reads a segment, it may raise `ObjectMissing` and `IntegrityError`."""
        return self._joined(self.segments)

    def rows(self, shards: Collection[int]) -> pa.Table:
        """All rows of these shards and all rejected ones; rows of other shards may be among them."""
        return self._joined(self.holding(shards))

    def holding(self, shards: Iterable[int]) -> list[Segment]:
        """The segments that hold a row of these shards."""
        wanted = set(shards)
        return [one for one in self.segments if not wanted.isdisjoint(range(one.first, one.last + 1))]

    def _joined(self, segments: Sequence[Segment]) -> pa.Table:
        return pa.concat_tables([self.own, *(table for table, _ in _contents(segments))]) if segments else self.own

    @cached_property
    def parts(self) -> Parts:
        """The cache parts of all shards."""
        return self.parts_of(None)

    def parts_of(self, shards: Collection[int] | None) -> dict[str, list[dict[str, Any]]]:
        """The cache parts of these shards, or of all; a shard without any is not in it."""
        held = [self.meta.get(_PARTS, {})]
        held += [parts for _, parts in _contents(self.segments if shards is None else self.holding(shards))]
        wanted = None if shards is None else {str(shard) for shard in shards}
        return {shard: refs for parts in held for shard, refs in parts.items() if wanted is None or shard in wanted}

    @property
    def refs(self) -> list[dict[str, Any]]:
        """The cache parts of all shards."""
        return [ref for several in self.parts.values() for ref in several]

    @property
    def fingerprint(self) -> str:
        """The name of the frozen prefix that made the tokens."""
        return self.meta["fingerprint"]


def write_rows(store: Store, rows: pa.Table, meta: Mapping[str, Any], version: int | None = None) -> Manifest:
    """Write a manifest that nobody names yet; others are untouched.

    `meta` is in its objects, under their digests. `version` goes into the keys, so that two versions never share an object.
    Many rows of several shards are written in segments.
    """
    spans = _spans(rows, 0) if rows.num_rows > SEGMENT_ROWS and "shard" in rows.column_names else []
    if len(spans) < 2:
        return _write_head(store, rows, meta, version)
    parts = meta.get(_PARTS, {})
    segments = _at_once(lambda span: _write_segment(store, _between(rows, *span), parts, span, version), spans)
    return _write_head(store, _between(rows, *_REJECTED), meta, version, segments)


def rewrite_rows(
    store: Store, before: Manifest, rows: pa.Table, parts: Parts, shards: Collection[int], version: int
) -> Manifest:
    """Write `before` with other rows and parts for some shards; what holds other shards alone stays as it is.

    rows: in place of `before.rows(shards)`. parts: those of `shards`.
    """
    if not before.segments:
        return _write_head(store, rows, {**before.meta, _PARTS: {**before.meta.get(_PARTS, {}), **parts}}, version)
    touched = before.holding(shards)

    def write(old: Segment) -> Segment:
        span = (old.first, old.last)
        return _write_segment(store, _between(rows, *span), {**old.content[1], **parts}, span, version)

    new = dict(zip(touched, _at_once(write, touched), strict=True))
    own = _between(rows, *_REJECTED)
    return _write_head(store, own, before.meta, version, [new.get(one, one) for one in before.segments])


def extend_rows(store: Store, before: Manifest, rows: pa.Table, meta: Mapping[str, Any], version: int) -> Manifest:
    """Write `before` with more rows, all of shards behind those that it has, or rejected ones.

    rows: sorted by shard. meta: of the whole; its "parts" are those of the new shards.
    """
    parts = meta[_PARTS]
    if not before.segments:
        several = [_between(table, *span) for span in (_REJECTED, _KEPT) for table in (before.own, rows)]
        whole = pa.concat_tables(several, promote_options="default")
        return write_rows(store, whole, {**meta, _PARTS: {**before.parts, **parts}}, version)
    own = pa.concat_tables([before.own, _between(rows, *_REJECTED)], promote_options="default")
    spans = _spans(_between(rows, *_KEPT), max(one.last for one in before.segments) + 1)
    new = _at_once(lambda span: _write_segment(store, _between(rows, *span), parts, span, version), spans)
    return _write_head(store, own, meta, version, [*before.segments, *new])


def write_again(store: Store, known: Manifest) -> Manifest:
    """Write a manifest that is in memory once more, under the same keys where the bytes are the same.

    A segment that was never read is left alone.
    """

    def write(one: Segment) -> Segment:
        if "content" not in vars(one):
            return one
        rows, parts = one.content
        return _write_segment(store, rows, parts, (one.first, one.last), version_of(one.key))

    return _write_head(store, known.own, known.meta, version_of(known.key), _at_once(write, known.segments))


def filled(store: Store, key: str, meta: Mapping[str, Any], rows: pa.Table, parts: Parts) -> Manifest:
    """The manifest of a head's key and meta, in memory, with rows and parts that were found elsewhere."""
    segments = _segments(store, meta)
    for one in segments:
        vars(one)["content"] = (_between(rows, one.first, one.last), _within(parts, one.first, one.last))
    return Manifest(_between(rows, *_REJECTED), key, "", meta, segments)


def point_manifest(store: Store, manifest: Manifest) -> None:
    """Make the JSON name this manifest.

    The JSON holds `key`, `digest` and `rows` (their number) of the rows file, `meta`, and `self`, its own digest.
    """
    fields = {"key": manifest.key, "digest": manifest.digest, "rows": manifest.num_rows, "meta": manifest.meta}
    store.write(MANIFEST_KEY, seal(fields, _SEAL))


def write_manifest(store: Store, rows: pa.Table, meta: Mapping[str, Any]) -> Manifest:
    """Write the rows, then the JSON that makes them the manifest, then delete every other rows file.

    Guarantees: a reader, also after a crash at any instant, finds the old manifest or the new one. When this returns,
    no rows of an earlier manifest are left, older versions included as far as they can be erased. A crash just before
    leaves them until the next call.
    """
    manifest = write_rows(store, rows, meta)
    point_manifest(store, manifest)
    store.erase([trace for trace in store.traces(ROWS) if trace not in manifest.keys])
    return manifest


def read_rows(store: Store, key: str, digest: str, known: Manifest | None = None) -> Manifest:
    """The manifest of this digest; `ObjectMissing` when it is not there. Segments that `known` has are not read again."""
    where = f"{key} in {store.uri}"
    data = store.read(key)
    check_digest(data, digest, where)
    table, meta = _table(data, where)
    held = {(one.key, one.digest): one for one in (known.segments if known else ())}
    return Manifest(table, key, digest, meta, [held.get((one.key, one.digest), one) for one in _segments(store, meta)])


def read_pointer(store: Store) -> dict[str, Any] | None:
    """The JSON alone, None when there is none."""
    try:
        document = store.read(MANIFEST_KEY)
    except ObjectMissing:
        return None
    return unseal(document, _SEAL, f"{MANIFEST_KEY} in {store.uri}")


def read_manifest(store: Store) -> Manifest | None:
    """The manifest that the JSON names, with all its segments; None when there is none.

    Raises `IntegrityError` naming the object if a byte of any differs or one is gone.
    """
    previous = b""
    for _ in range(_ATTEMPTS):
        try:
            document = store.read(MANIFEST_KEY)
        except ObjectMissing:
            return None
        described = unseal(document, _SEAL, f"{MANIFEST_KEY} in {store.uri}")
        where = f"{described['key']} in {store.uri}"
        try:
            found = read_rows(store, described["key"], described["digest"])
            _contents(found.segments)
        except ObjectMissing as error:
            if document == previous:
                raise IntegrityError(f"{error}, yet {MANIFEST_KEY} names {where}; shard the data again") from error
            previous = document  # perhaps it was rewritten between the two reads
            continue
        if described["meta"] != found.meta:  # the rows' digest is committed elsewhere, the JSON's is only its own
            raise IntegrityError(f"{MANIFEST_KEY} in {store.uri} says other things than {found.key}; restore it")
        if found.table.num_rows != described["rows"]:
            raise IntegrityError(
                f"{where}: expected {described['rows']} rows, got {found.table.num_rows}; shard the data again"
            )
        return found
    raise IntegrityError(f"{MANIFEST_KEY} in {store.uri} is rewritten again and again; stop the other writers")


def version_of(key: str) -> int | None:
    """How many purges had rewritten the manifest when an object of it was written; None where its key does not say."""
    found = re.fullmatch(r"rows-(\d{6})-.*", key.rpartition("/")[2])
    return int(found[1]) if found else None


def _spans(rows: pa.Table, first: int) -> list[tuple[int, int]]:
    """The first and the last shard of each segment of these rows, from a shard on."""
    shards, counts = np.unique(rows["shard"].to_numpy(), return_counts=True)
    spans: list[tuple[int, int]] = []
    held = 0
    for shard, count in zip(shards[shards >= 0].tolist(), counts[shards >= 0].tolist(), strict=True):
        held += count
        if held >= SEGMENT_ROWS:
            spans.append((first, shard))
            first, held = shard + 1, 0
    return [*spans, (first, int(shards[-1]))] if held else spans


def _between(rows: pa.Table, first: int, last: int) -> pa.Table:
    """The rows of shards from `first` to `last`."""
    shard = rows["shard"].to_numpy()
    return rows.filter(pa.array((shard >= first) & (shard <= last)))


def _write_head(
    store: Store, own: pa.Table, meta: Mapping[str, Any], version: int | None, segments: Sequence[Segment] = ()
) -> Manifest:
    if segments:
        meta = {name: value for name, value in meta.items() if name != _PARTS}
        meta[_SEGMENTS] = [one.named() for one in segments]
        own = own.combine_chunks()  # bytes depend on how rows lie in memory
    key, digest = _write_object(store, own, meta, version)
    return Manifest(own, key, digest, dict(meta), segments)


def _write_segment(store: Store, rows: pa.Table, parts: Parts, span: tuple[int, int], version: int | None) -> Segment:
    rows, parts = rows.combine_chunks(), _within(parts, *span)
    written = Segment(store, *_write_object(store, rows, {_PARTS: parts}, version), rows.num_rows, *span)
    vars(written)["content"] = (rows, parts)
    return written


def _write_object(store: Store, rows: pa.Table, meta: Mapping[str, Any], version: int | None) -> tuple[str, str]:
    sink = pa.BufferOutputStream()
    pq.write_table(rows.replace_schema_metadata({_META: canonical_json(dict(meta))}), sink, compression="zstd")
    data = memoryview(sink.getvalue())
    digest = digest_bytes(data)
    key = f"{ROWS}{'' if version is None else f'{version:06d}-'}{digest[:16]}.parquet"
    store.write(key, data)
    return key, digest


def _segments(store: Store, meta: Mapping[str, Any]) -> list[Segment]:
    """The segments that a head names."""
    try:
        return [
            Segment(store, str(one["key"]), str(one["digest"]), int(one["rows"]), *map(int, one["shards"]))
            for one in meta.get(_SEGMENTS, ())
        ]
    except MALFORMED as error:
        raise IntegrityError(f"the manifest in {store.uri} names its segments wrongly ({error}); restore it") from error


def _within(parts: Parts, first: int, last: int) -> dict[str, list[dict[str, Any]]]:
    return {shard: refs for shard, refs in parts.items() if first <= int(shard) <= last}


def _contents(segments: Sequence[Segment]) -> list[tuple[pa.Table, Parts]]:
    return _at_once(lambda one: one.content, segments)


def _at_once(work: Callable[[A], B], several: Sequence[A]) -> list[B]:
    if len(several) < 2:
        return [work(one) for one in several]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(work, several))


def _table(data: bytes | bytearray, where: str) -> tuple[pa.Table, dict[str, Any]]:
    try:
        table = pq.ParquetFile(pa.BufferReader(_of_arrow(data))).read()  # `read_table` imports pandas: slower than this
        meta = parse_json((table.schema.metadata or {})[_META])
    except (pa.ArrowException, OSError, *MALFORMED) as error:
        raise IntegrityError(f"{where} is not a manifest ({error}); shard the data again") from error
    return table.replace_schema_metadata(None), meta


def _of_arrow(data: bytes | bytearray) -> pa.Buffer:
    """A copy in Arrow's memory: its pool's threads may be the last to leave Python's, and abort a process that is ending."""
    copy = pa.allocate_buffer(len(data))
    memoryview(copy).cast("B")[:] = data
    return copy
