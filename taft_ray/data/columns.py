"""Columns and masks of the manifest made without pandas: `pa.array` and `pa.scalar` import it, which takes longer than an estimate."""

# pyarrow.compute makes its functions when it is imported
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def is_one_of(column: pa.ChunkedArray, values: Iterable[bytes] | Iterable[int]) -> pa.ChunkedArray:
    """Which rows of a column of keys, or of numbers, have one of these values."""
    kind = column.type
    listed: list[Any] = list(values)
    if pa.types.is_fixed_size_binary(kind):
        return pc.is_in(column, value_set=_fixed_width(b"".join(listed), kind))
    return pc.is_in(column, value_set=_fixed_width(np.asarray(listed, kind.to_pandas_dtype()).tobytes(), kind))


def is_kept(table: pa.Table) -> pa.ChunkedArray:
    """Which rows are in a shard."""
    kind = table["shard"].type
    zero = _fixed_width(bytes(kind.bit_width // 8), kind)[0]
    return pc.greater_equal(table["shard"], zero)


def _fixed_width(data: bytes, kind: pa.DataType) -> pa.Array:
    return pa.Array.from_buffers(kind, len(data) * 8 // kind.bit_width, [None, pa.py_buffer(data)])
