"""Columns and masks of the manifest made without pandas: `pa.array` and `pa.scalar` import it, which takes longer than an estimate."""

# pyarrow.compute makes its functions when it is imported
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def has_key(column: pa.ChunkedArray, keys: Iterable[bytes]) -> pa.ChunkedArray:
    """Which rows of a column of sample or owner keys have one of these."""
    return pc.is_in(column, value_set=_fixed_width(b"".join(keys), column.type))


def has_text(column: pa.ChunkedArray, texts: Iterable[str]) -> pa.ChunkedArray:
    """Which rows of a column of strings have one of these."""
    encoded = [text.encode() for text in texts]
    offsets = np.cumsum([0, *map(len, encoded)], dtype=np.int32)
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(b"".join(encoded))]
    return pc.is_in(column, value_set=pa.Array.from_buffers(pa.string(), len(encoded), buffers))


def has_number(column: pa.ChunkedArray, numbers: Iterable[int]) -> pa.ChunkedArray:
    """Which rows of a column of numbers have one of these."""
    values = np.asarray(list(numbers), column.type.to_pandas_dtype())
    return pc.is_in(column, value_set=_fixed_width(values.tobytes(), column.type))


def is_kept(table: pa.Table) -> pa.ChunkedArray:
    """Which rows are in a shard."""
    kind = table["shard"].type
    zero = _fixed_width(bytes(kind.bit_width // 8), kind)[0]
    return pc.greater_equal(table["shard"], zero)


def _fixed_width(data: bytes, kind: pa.DataType) -> pa.Array:
    return pa.Array.from_buffers(kind, len(data) * 8 // kind.bit_width, [None, pa.py_buffer(data)])
