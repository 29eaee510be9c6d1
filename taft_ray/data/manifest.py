"""The outcome of every source row: kept in a shard, or rejected with a reason. It holds keys, not ids."""

# pyarrow.compute makes its functions when it is imported
# pyright: reportAttributeAccessIssue=false

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from taft_ray.counting import plural
from taft_ray.data import keys as sample_names
from taft_ray.data.classes import label_column, note_of_alike
from taft_ray.data.ids import blanks_note
from taft_ray.data.sharding import Method, assign, check_owners
from taft_ray.data.source_file import BESIDE, HIDDEN
from taft_ray.data.splits import check_rows
from taft_ray.errors import DataError, TooManyRejected
from taft_ray.log import logger_of

KEPT, REJECTED = "kept", "rejected"
DUPLICATE = "duplicate id"
_log = logger_of(__name__)

_KEY = pa.binary(sample_names.KEY_BYTES)
MANIFEST_SCHEMA = pa.schema(
    [
        pa.field("key", _KEY, nullable=False),
        pa.field("shard", pa.int32(), nullable=False),  # -1 rejected
        pa.field("label", pa.int32(), nullable=False),  # -1 rejected
        pa.field("owner_key", _KEY),
        pa.field("uri_relative", pa.string(), nullable=False),
        pa.field("row", pa.int64(), nullable=False),
        pa.field("bytes", pa.int64(), nullable=False),
        pa.field("status", pa.string(), nullable=False),
        pa.field("reason", pa.string()),
        pa.field("part", pa.int32()),  # where in the shard's cache, once written: see place()
        pa.field("part_row", pa.int32()),
    ]
)


def check_index(index: pa.Table, *, classes: Sequence[str], method: str) -> None:
    """Raise what `build_manifest` raises of rows that no run can be made of.

    DataError where there are none, where they belong to several splits, and for labels that are no class. UsageError where
    owners are needed and there are none.
    """
    if index.num_rows == 0:
        raise DataError("the data has no rows; check --data, and --split where one is given")
    check_rows(index["split"].unique().to_pylist())
    label_column(index, classes)
    if method == "grouped":
        check_owners(index["owner"].to_pylist())


def build_manifest(
    index: pa.Table, *, classes: Sequence[str], seed: int, shards: int, method: Method = "hash", first: int = 0
) -> pa.Table:
    """One row for every row of the index, sorted by (shard, key), the rejected (shard -1) first. first: the first shard's number.

    Guarantees: no row is lost and none is in two shards; the result does not depend on the order of the index.
    DataError where rows belong to several splits. Logs a warning where ids have blanks at their ends, or classes differ in case alone.
    """
    check_index(index, classes=classes, method=method)
    index = index.sort_by([("relative", "ascending"), ("row", "ascending")]).combine_chunks()
    index = _reject_duplicates(index)
    for note in (blanks_note(index["id"]), note_of_alike(classes)):
        if note:
            _log.warning(note)
    kept = pc.is_null(index["reason"]).to_numpy()
    positions = np.flatnonzero(kept)

    keys = sample_names.sample_keys(index["id"].to_pylist(), seed)
    owners = _owner_keys(index["owner"].to_pylist(), seed)
    labels = label_column(index, classes)
    shard = np.full(index.num_rows, -1, np.int64)
    shard[positions] = first + assign(
        [keys[i] for i in positions],
        shards=shards,
        method=method,
        labels=labels[positions],
        owners=[owners[i] for i in positions],
    )
    table = _table(
        {
            "key": key_array(keys),
            "shard": shard,
            "label": labels,
            "owner_key": pa.array(owners, _KEY),
            "uri_relative": index["relative"],
            "row": index["row"],
            "bytes": index["bytes"],
            "status": pc.if_else(pa.array(kept), KEPT, REJECTED),
            "reason": index["reason"],
            "part": pa.nulls(index.num_rows),
            "part_row": pa.nulls(index.num_rows),
        }
    )
    return _sorted(table)


def reject(manifest: pa.Table, reasons: Mapping[bytes, str]) -> pa.Table:
    """Reject kept samples by key, such as pictures that could not be decoded. A key that is not kept is a DataError."""
    found = pc.index_in(manifest["key"], value_set=pa.array(list(reasons), _KEY))
    hit = pc.and_(pc.is_valid(found), pc.equal(manifest["status"], KEPT))
    rejected = pc.sum(hit).as_py() or 0
    if rejected != len(reasons):
        raise DataError(
            f"{plural(len(reasons), 'sample was', 'samples were')} to be rejected, and {rejected} of them kept in the manifest"
        )
    why = pa.array(list(reasons.values()), pa.string()).take(found.combine_chunks())
    columns: dict[str, Any] = {name: manifest[name] for name in MANIFEST_SCHEMA.names}
    for name in ("shard", "label"):
        columns[name] = pc.if_else(hit, -1, manifest[name])
    for name in ("part", "part_row"):
        columns[name] = pc.if_else(hit, None, manifest[name])
    columns["status"] = pc.if_else(hit, REJECTED, manifest["status"])
    columns["reason"] = pc.if_else(hit, why, manifest["reason"])
    return _sorted(_table(columns))


def place(manifest: pa.Table, parts: Mapping[tuple[int, int], Sequence[bytes]]) -> pa.Table:
    """Fill ``part`` and ``part_row`` from the keys each (shard, part) of the cache holds, in its order."""
    where = {key: (part, row) for (_, part), keys in parts.items() for row, key in enumerate(keys)}
    kept = [status == KEPT for status in manifest["status"].to_pylist()]
    placed = [
        where.get(key) if is_kept else None for key, is_kept in zip(manifest["key"].to_pylist(), kept, strict=True)
    ]
    lost = sum(is_kept and spot is None for is_kept, spot in zip(kept, placed, strict=True))
    if lost or sum(kept) != len(where):
        raise DataError(
            f"the cache parts hold {len(where)} samples and the manifest keeps {sum(kept)}, {lost} of them in no part"
        )
    columns: dict[str, Any] = {name: manifest[name] for name in MANIFEST_SCHEMA.names}
    columns["part"] = [spot and spot[0] for spot in placed]
    columns["part_row"] = [spot and spot[1] for spot in placed]
    return _table(columns)


def counts(manifest: pa.Table) -> dict[str, Any]:
    reasons = Counter(reason for reason in manifest["reason"].to_pylist() if reason is not None)
    rejected = sum(reasons.values())
    return {
        "rows": manifest.num_rows,
        "kept": manifest.num_rows - rejected,
        "rejected": rejected,
        "reasons": dict(sorted(reasons.items())),
    }


def check_rejected(
    counts: Mapping[str, Any], max_rejected: float, examples: Mapping[str, Sequence[str]] | None = None
) -> None:
    """``max_rejected`` is a fraction of all rows; a manifest that keeps nothing is never accepted.

    Hidden pictures and those beside a sample's own are counted as rejected and limit nothing: that is how such data is meant.

    examples: some rows of each reason, which the error names.
    """
    beside = sum(counts["reasons"].get(reason, 0) for reason in (BESIDE, HIDDEN))
    rows, rejected = counts["rows"] - beside, counts["rejected"] - beside
    if rejected > max_rejected * rows or counts["kept"] == 0:
        some = {reason: f", such as {', '.join(rows)}" for reason, rows in (examples or {}).items()}
        parts = [f"{reason}: {number}{some.get(reason, '')}" for reason, number in counts["reasons"].items()]
        reasons = ("; " if some else ", ").join(parts)
        raise TooManyRejected(
            f"{rejected} of {plural(rows, 'row')} {'was' if rejected == 1 else 'were'} rejected ({reasons}) and --max-rejected allows {max_rejected:.2%}; "
            f"mend the data or raise it"
        )


def key_array(keys: Sequence[bytes]) -> pa.Array:
    return pa.Array.from_buffers(_KEY, len(keys), [None, pa.py_buffer(b"".join(keys))])


def _owner_keys(owners: list[str | None], seed: int) -> list[bytes | None]:
    names = sorted({owner for owner in owners if owner is not None})
    known = dict(zip(names, sample_names.sample_keys(names, seed), strict=True))
    return [None if owner is None else known[owner] for owner in owners]


def _reject_duplicates(index: pa.Table) -> pa.Table:
    """Keep the first of the usable rows with one id; one that is rejected already does not take the id from another."""
    seen: set[str] = set()
    reasons: list[str | None] = []
    for id, reason in zip(index["id"].to_pylist(), index["reason"].to_pylist(), strict=True):
        if reason is None:
            reason = DUPLICATE if id in seen else None
            seen.add(id)
        reasons.append(reason)
    return index.set_column(index.column_names.index("reason"), "reason", pa.array(reasons, pa.string()))


def _table(columns: dict[str, Any]) -> pa.Table:
    arrays = []
    for field in MANIFEST_SCHEMA:
        column = columns[field.name]
        if not isinstance(column, pa.Array | pa.ChunkedArray):
            column = pa.array(column, field.type)
        arrays.append(column.cast(field.type))
    return pa.table(arrays, schema=MANIFEST_SCHEMA)


def _sorted(table: pa.Table) -> pa.Table:
    high, low = sample_names.words(table["key"].to_pylist())
    relative = pc.rank(table["uri_relative"], tiebreaker="dense").to_numpy()
    order = np.lexsort((table["row"].to_numpy(), relative, low, high, table["shard"].to_numpy()))
    return table.take(pa.array(order)).combine_chunks()
