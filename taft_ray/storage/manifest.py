"""The manifest: one row a source row, kept or rejected; a Parquet file and, written last, the JSON that names it."""

from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from taft_ray.errors import IntegrityError, ObjectMissing
from taft_ray.storage.digest import check_digest, digest_bytes, seal, unseal
from taft_ray.storage.objects import Store

FOLDER = "manifest"
MANIFEST_KEY = f"{FOLDER}/_MANIFEST.json"

ROWS = f"{FOLDER}/rows-"
"""What the keys of rows files start with."""
_SEAL = "self"
_ATTEMPTS = 3


def write_manifest(store: Store, rows: pa.Table, meta: Mapping[str, Any]) -> dict[str, Any]:
    """Write the rows, then the JSON that makes them the manifest, then delete every other rows file; returns the JSON.

    The JSON holds `key`, `digest` and `rows` (their number) of the rows file, `meta`, and `self`, its own digest.

    Guarantees: a reader, also after a crash at any instant, finds the old manifest or the new one. When this returns,
    no rows of an earlier manifest are left, older versions included as far as they can be erased (a crash just before
    leaves them until the next call).
    """
    sink = pa.BufferOutputStream()
    pq.write_table(rows, sink, compression="zstd")
    data = memoryview(sink.getvalue())
    digest = digest_bytes(data)
    key = f"{ROWS}{digest[:16]}.parquet"
    store.write(key, data)
    document = seal({"key": key, "digest": digest, "rows": rows.num_rows, "meta": dict(meta)}, _SEAL)
    store.write(MANIFEST_KEY, document)
    store.erase([trace for trace in store.traces(ROWS) if trace != key])
    return unseal(document, _SEAL, MANIFEST_KEY)


def read_manifest(store: Store) -> tuple[pa.Table, dict[str, Any]] | None:
    """The rows and the JSON of the manifest, None when there is none.

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
        return _table(data, described, where), described
    raise IntegrityError(f"{MANIFEST_KEY} in {store.uri} is rewritten again and again; stop the other writers")


def _table(data: bytes, described: Mapping[str, Any], where: str) -> pa.Table:
    try:
        table = pq.read_table(pa.BufferReader(data))
    except (pa.ArrowException, OSError) as error:
        raise IntegrityError(f"{where} is not a Parquet file ({error}); shard the data again") from error
    if table.num_rows != described["rows"]:
        raise IntegrityError(f"{where}: expected {described['rows']} rows, got {table.num_rows}; shard the data again")
    return table
