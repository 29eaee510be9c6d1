"""Activation tokens in parts: Arrow IPC files whose rows are samples, memory-mapped when local."""

# n samples, T tokens, d width

import math
import mmap
import os
import sys
from collections.abc import Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from taft_ray.errors import IntegrityError, UsageError
from taft_ray.storage.digest import check_digest, digest_bytes
from taft_ray.storage.objects import Store

KEY_BYTES = 16
"""Bytes of a sample key."""

STORED_AS: Mapping[str, Any] = {"float16": np.float16, "bfloat16": np.uint16, "int16": np.int16}
"""The numpy type that holds each dtype: numpy has no bfloat16, so its bits travel as uint16. int16 holds an additive run's rows."""

_READERS = 8
"""Parts that `read_several` reads at once."""

_POPULATE_READ = 22
"""Linux's MADV_POPULATE_READ, which Python's mmap has no name for."""

_HUGE_PAGE = 2 << 20
"""Bytes that one entry of a page table can map, on x86-64 and most aarch64."""

_COLUMNS = ("key", "label", "tokens")
_ROWS = "rows"  # the name of one more column, in a run that has rows beside its tokens
_ARROW_TYPES = {"float16": pa.float16(), "bfloat16": pa.uint16(), "int16": pa.int16()}


@dataclass(frozen=True)
class PartRef:
    """Where a part is and what it must be: `digest` and `bytes` of the object, `rows` in it."""

    key: str
    digest: str
    rows: int
    bytes: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "PartRef":
        return cls(str(fields["key"]), str(fields["digest"]), int(fields["rows"]), int(fields["bytes"]))


@dataclass(frozen=True, eq=False)
class CachePart:
    """A part's rows: `keys` n of 16 bytes, `labels` (n,) int64, `tokens` (n, T, d) or (n, c, h, w) of `STORED_AS[dtype]`; read-only.

    rows: int16 (n, S) beside the tokens, in a run of two tiers.
    """

    keys: list[bytes]
    labels: np.ndarray
    tokens: np.ndarray
    dtype: str
    rows: np.ndarray | None = None


def write_part(
    store: Store,
    prefix: str,
    part: int,
    *,
    keys: Sequence[bytes],
    labels: np.ndarray,
    tokens: np.ndarray,
    dtype: str,
    fingerprint: str,
    rows: np.ndarray | None = None,
) -> PartRef:
    """Write n samples as ``{prefix}/part-{part:03d}-{digest[:16]}.arrow``.

    `keys` are n of 16 bytes, `labels` (n,) int64. `tokens` are (n, T, d), or a convolution's maps (n, c, h, w). They are
    float16, or uint16 holding bfloat16 bits; `dtype` says which. `fingerprint` names the frozen prefix that made the tokens.
    `rows`, where there are some, are int16 (n, S).

    Guarantees: bits unchanged; equal content gives an equal key, so that writing again is harmless. Uses the part's
    size in memory once more (twice more on S3).
    """
    _check_rows(keys, labels, tokens, dtype, rows)
    table = _batch(keys, labels, tokens, dtype, fingerprint, rows)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_batch(table)
    data = memoryview(sink.getvalue())
    digest = digest_bytes(data)
    key = f"{prefix}/part-{part:03d}-{digest[:16]}.arrow"
    store.write(key, data)
    return PartRef(key, digest, len(keys), data.nbytes)


def read_part(
    store: Store, ref: PartRef, *, fingerprint: str, verify: bool = True, into: Path | None = None
) -> CachePart:
    """The rows of a part; `tokens` is the mapped file, not a copy.

    From a remote store the part is copied to `into` and found there by the next call. Without `into` the copy is
    unlinked as soon as it is mapped, so that it disappears with the arrays.

    Raises `IntegrityError` when the bytes do not have the digest of `ref`; with `verify=False` only their number is
    checked. Raises it also when the part was made by another model than `fingerprint`. `ObjectMissing` when it is not there.
    """
    where = f"{ref.key} in {store.uri}"
    path = _local_copy(store, ref, into)
    try:
        data = _mapped(path)
        if data.size != ref.bytes:
            raise IntegrityError(f"{where} is damaged: expected {ref.bytes} bytes, got {data.size}; make it again")
    finally:
        if not store.local and into is None:
            path.unlink(missing_ok=True)
    if verify:
        check_digest(data, ref.digest, where)
    return _decode(data, ref, fingerprint, where)


def read_several(store: Store, refs: Sequence[PartRef], *, fingerprint: str) -> list[CachePart]:
    """`read_part` of each, in their order, several at once: a storage's answers overlap, and so do digests where cores are idle."""
    if len(refs) < 2:
        return [read_part(store, ref, fingerprint=fingerprint) for ref in refs]
    with ThreadPoolExecutor(min(_READERS, len(refs))) as readers:
        return list(readers.map(lambda ref: read_part(store, ref, fingerprint=fingerprint), refs))


def _mapped(path: Path) -> pa.Buffer:
    """The file, read-only, its huge pages asked for at once.

    Some file systems keep files in huge pages (ext4 since Linux 6.16, xfs). There an entry of the page table maps 2 MiB
    instead of 4 KiB, and the disk is read in pieces of that size. Elsewhere asking at once spares the disk the small pieces.
    The end of the file, less than a huge page, comes as it is touched. Asked for at once, it would be mapped entry by entry.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        if not os.fstat(descriptor).st_size:
            return pa.py_buffer(b"")  # nothing can be mapped of it
        memory = mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
    finally:
        os.close(descriptor)
    if sys.platform == "linux":
        with suppress(OSError):  # a kernel without huge pages
            memory.madvise(mmap.MADV_HUGEPAGE)
        whole = len(memory) // _HUGE_PAGE * _HUGE_PAGE
        if whole:
            with suppress(OSError):  # before Linux 5.14
                memory.madvise(_POPULATE_READ, 0, whole)
    return pa.py_buffer(memory)


def rewrite_part(
    store: Store, prefix: str, part: int, ref: PartRef, *, drop: Set[bytes], fingerprint: str
) -> PartRef | None:
    """Write the part without the rows whose key is in `drop`, under `prefix`; None when none are left.

    `ref` itself when it holds none of them: then nothing is written. The old object stays: delete it after the new one is
    recorded.
    """
    old = read_part(store, ref, fingerprint=fingerprint)
    kept = [row for row, key in enumerate(old.keys) if key not in drop]
    if not kept:
        return None
    if len(kept) == len(old.keys):
        return ref
    return write_part(
        store,
        prefix,
        part,
        keys=[old.keys[row] for row in kept],
        labels=old.labels[kept],
        tokens=old.tokens[kept],
        dtype=old.dtype,
        fingerprint=fingerprint,
        rows=None if old.rows is None else old.rows[kept],
    )


def _check_rows(
    keys: Sequence[bytes], labels: np.ndarray, tokens: np.ndarray, dtype: str, rows: np.ndarray | None
) -> None:
    if dtype not in STORED_AS:
        raise UsageError(f"expected dtype {' or '.join(STORED_AS)}, got {dtype!r}")
    if tokens.dtype != STORED_AS[dtype]:
        raise UsageError(
            f"expected {np.dtype(STORED_AS[dtype])} tokens for dtype {dtype}, got {tokens.dtype}; convert them"
        )
    if tokens.ndim not in (3, 4) or 0 in tokens.shape[1:]:
        raise UsageError(f"expected tokens of shape (n, T, d) or (n, c, h, w) with sizes >= 1, got {tokens.shape}")
    if labels.dtype != np.int64 or labels.shape != (len(tokens),):
        raise UsageError(f"expected {len(tokens)} int64 labels, got {labels.shape} of {labels.dtype}")
    if len(keys) != len(tokens) or any(len(key) != KEY_BYTES for key in keys):
        raise UsageError(f"expected {len(tokens)} keys of {KEY_BYTES} bytes, got {len(keys)}; use sample keys")
    if rows is not None and (rows.dtype != np.int16 or rows.ndim != 2 or len(rows) != len(tokens) or not rows.shape[1]):
        raise UsageError(f"expected int16 rows of shape ({len(tokens)}, S), got {rows.dtype} of {rows.shape}")


def _batch(
    keys: Sequence[bytes],
    labels: np.ndarray,
    tokens: np.ndarray,
    dtype: str,
    fingerprint: str,
    rows: np.ndarray | None,
) -> pa.RecordBatch:
    n, *shape = tokens.shape
    columns = {
        "key": pa.FixedSizeBinaryArray.from_buffers(pa.binary(KEY_BYTES), n, [None, pa.py_buffer(b"".join(keys))]),
        "label": pa.array(np.ascontiguousarray(labels)),
        "tokens": _lists(tokens, dtype),
    }
    if rows is not None:
        columns[_ROWS] = _lists(rows, "int16")
    metadata = {"fingerprint": fingerprint, "dtype": dtype, "shape": ",".join(map(str, shape))}
    schema = pa.schema([pa.field(name, column.type) for name, column in columns.items()], metadata=metadata)
    return pa.RecordBatch.from_arrays(list(columns.values()), schema=schema)


def _lists(numbers: np.ndarray, dtype: str) -> pa.Array:
    """A sample's numbers as one list: a column that shares the array's memory."""
    flat = np.ascontiguousarray(numbers).reshape(-1)
    values = pa.Array.from_buffers(_ARROW_TYPES[dtype], flat.size, [None, pa.py_buffer(flat)])
    return pa.FixedSizeListArray.from_arrays(values, math.prod(numbers.shape[1:]))


def _local_copy(store: Store, ref: PartRef, into: Path | None) -> Path:
    if into is not None and not store.local:
        kept = into / ref.key
        # the key carries the content's digest, and the bytes are verified: an earlier copy is as good as a new one
        if kept.is_file() and kept.stat().st_size == ref.bytes:
            return kept
    return store.fetch(ref.key, into)


def _values(column: pa.Array, dtype: np.dtype) -> np.ndarray:
    """The numbers of a column without gaps: a view of its memory, read-only."""
    if column.null_count or column.offset:
        raise ValueError("a column has gaps")
    return np.frombuffer(column.buffers()[1], dtype, len(column))


def _decode(data: pa.Buffer, ref: PartRef, fingerprint: str, where: str) -> CachePart:
    try:
        reader = pa.ipc.open_file(data)
        metadata = {name.decode(): value.decode() for name, value in (reader.schema.metadata or {}).items()}
        made_by, dtype = metadata["fingerprint"], metadata["dtype"]
        shape = [int(size) for size in metadata["shape"].split(",")]
        expected = [pa.binary(KEY_BYTES), pa.int64(), pa.list_(_ARROW_TYPES[dtype], math.prod(shape))]
        features = _width_of_rows(reader.schema)
        if features:
            expected.append(pa.list_(pa.int16(), features))
        if reader.schema.names != [*_COLUMNS, _ROWS][: len(expected)] or reader.schema.types != expected:
            raise ValueError("its columns are other ones")
        batch = reader.get_batch(0)
        flat = bytes(batch.column("key").buffers()[1])[: KEY_BYTES * len(batch)]
        keys = [flat[at : at + KEY_BYTES] for at in range(0, len(flat), KEY_BYTES)]
        # not `to_numpy`, which imports pandas
        labels = _values(batch.column("label"), np.dtype("<i8"))
        tokens = _values(batch.column("tokens").flatten(), np.dtype(STORED_AS[dtype])).reshape(len(keys), *shape)
        rows = _values(batch.column(_ROWS).flatten(), np.dtype(np.int16)).reshape(len(keys), -1) if features else None
    except (pa.ArrowException, LookupError, ValueError, OSError) as error:
        raise IntegrityError(
            f"{where} is damaged: not a part of an activation cache ({error}); make it again"
        ) from error
    if made_by != fingerprint:
        raise IntegrityError(
            f"{where} is another model's cache: expected fingerprint {fingerprint}, got {made_by}; "
            "use the run's own model or make the cache again"
        )
    if len(keys) != ref.rows:
        raise IntegrityError(f"{where} is damaged: expected {ref.rows} rows, got {len(keys)}; make it again")
    return CachePart(keys, labels, tokens, dtype, rows)


def _width_of_rows(schema: pa.Schema) -> int:
    """S of the rows beside the tokens; 0 where there are none."""
    return int(getattr(schema.field(_ROWS).type, "list_size", 0)) if _ROWS in schema.names else 0
