"""The manifest: one row a source row, kept or rejected; a Parquet file that describes itself, and a JSON that names it.

Which manifest holds is said by whoever commits to its digest: for a run the ledger (`write_rows`, then a commit, then
`point_manifest`, so that the JSON is a copy for readers without a ledger); for an evaluation cache the JSON itself
(`write_manifest`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

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
_SEAL = "self"
_META = b"taft_ray"
_ATTEMPTS = 3


@dataclass(frozen=True, eq=False)
class Manifest:
    """The rows, the object that holds them, and what is in it beside them: `meta`."""

    table: pa.Table
    key: str
    digest: str
    meta: Mapping[str, Any]

    @property
    def parts(self) -> dict[str, list[dict[str, Any]]]:
        """The cache parts of each shard: `PartRef` as JSON, with the number of the "part"."""
        return self.meta["parts"]

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

    `meta` is in the file, under its digest. `version` goes into the key, so that two versions never share an object.
    """
    sink = pa.BufferOutputStream()
    pq.write_table(rows.replace_schema_metadata({_META: canonical_json(dict(meta))}), sink, compression="zstd")
    data = memoryview(sink.getvalue())
    digest = digest_bytes(data)
    key = f"{ROWS}{'' if version is None else f'{version:06d}-'}{digest[:16]}.parquet"
    store.write(key, data)
    return Manifest(rows, key, digest, dict(meta))


def point_manifest(store: Store, manifest: Manifest) -> None:
    """Make the JSON name this manifest.

    The JSON holds `key`, `digest` and `rows` (their number) of the rows file, `meta`, and `self`, its own digest.
    """
    fields = {"key": manifest.key, "digest": manifest.digest, "rows": manifest.table.num_rows, "meta": manifest.meta}
    store.write(MANIFEST_KEY, seal(fields, _SEAL))


def write_manifest(store: Store, rows: pa.Table, meta: Mapping[str, Any]) -> Manifest:
    """Write the rows, then the JSON that makes them the manifest, then delete every other rows file.

    Guarantees: a reader, also after a crash at any instant, finds the old manifest or the new one. When this returns,
    no rows of an earlier manifest are left, older versions included as far as they can be erased (a crash just before
    leaves them until the next call).
    """
    manifest = write_rows(store, rows, meta)
    point_manifest(store, manifest)
    store.erase([trace for trace in store.traces(ROWS) if trace != manifest.key])
    return manifest


def read_rows(store: Store, key: str, digest: str) -> Manifest:
    """The manifest of this digest; `ObjectMissing` when it is not there."""
    where = f"{key} in {store.uri}"
    data = store.read(key)
    check_digest(data, digest, where)
    table, meta = _table(data, where)
    return Manifest(table, key, digest, meta)


def read_pointer(store: Store) -> dict[str, Any] | None:
    """The JSON alone, None when there is none."""
    try:
        document = store.read(MANIFEST_KEY)
    except ObjectMissing:
        return None
    return unseal(document, _SEAL, f"{MANIFEST_KEY} in {store.uri}")


def read_manifest(store: Store) -> Manifest | None:
    """The manifest that the JSON names, None when there is none.

    Raises `IntegrityError` naming the object if a byte of either differs or the rows file is gone.
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
            data = store.read(described["key"])
        except ObjectMissing as error:
            if document == previous:
                raise IntegrityError(
                    f"{where} is missing, yet {MANIFEST_KEY} names it; shard the data again"
                ) from error
            previous = document  # perhaps it was rewritten between the two reads
            continue
        check_digest(data, described["digest"], where)
        table, meta = _table(data, where)
        if described["meta"] != meta:  # the rows' digest is committed elsewhere, the JSON's is only its own
            raise IntegrityError(f"{MANIFEST_KEY} in {store.uri} says other things than {described['key']}; restore it")
        if table.num_rows != described["rows"]:
            raise IntegrityError(
                f"{where}: expected {described['rows']} rows, got {table.num_rows}; shard the data again"
            )
        return Manifest(table, described["key"], described["digest"], meta)
    raise IntegrityError(f"{MANIFEST_KEY} in {store.uri} is rewritten again and again; stop the other writers")


def _table(data: bytes, where: str) -> tuple[pa.Table, dict[str, Any]]:
    try:
        table = pq.ParquetFile(
            pa.BufferReader(data)
        ).read()  # `read_table` imports pandas, which takes longer than this
        meta = parse_json((table.schema.metadata or {})[_META])
    except (pa.ArrowException, OSError, *MALFORMED) as error:
        raise IntegrityError(f"{where} is not a manifest ({error}); shard the data again") from error
    return table.replace_schema_metadata(None), meta
