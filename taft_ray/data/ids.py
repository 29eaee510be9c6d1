"""Sample ids: bytes that somebody else chose, as one text form that a request can name.

An id is never stripped, split or normalised. UUIDs have their usual text, other bytes are lower-case hexadecimal.
"""

# pyarrow.compute makes its functions when it is imported
# pyright: reportAttributeAccessIssue=false

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from taft_ray.counting import plural
from taft_ray.errors import DataError

_UNNAMEABLE = "[\n\r\x00]|^\ufeff"  # ids stand one a line in a file, and no command line holds a zero byte
_SHOWN = 3


def texts(column: pa.ChunkedArray, name: str, where: str) -> pa.Array:
    """The values of an id or owner column as text, null where there is none; DataError for types that name nothing."""
    kind = column.type
    flat = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], kind)
    if pa.types.is_dictionary(kind):
        flat, kind = flat.cast(kind.value_type), kind.value_type
    if isinstance(kind, pa.UuidType):
        return pa.array([None if v is None else str(v) for v in flat.to_pylist()], pa.string())
    if isinstance(kind, pa.BaseExtensionType):
        flat, kind = flat.storage, flat.type.storage_type
    if _is_bytes(kind):
        return pa.array([None if v is None else v.hex() for v in flat.to_pylist()], pa.string())
    if not _names_things(kind):
        raise DataError(
            f"the column {name!r} of {where} holds {kind}, such as {_first(flat)}, which names no sample exactly. It must hold "
            "strings, integers, UUIDs or binary: write it again as strings"
        )
    return flat.cast(pa.string())


def check_ids(index: pa.Table) -> None:
    """DataError where an id is empty, or holds what no line of a file can: it could never be asked for."""
    ids = index["id"]
    wrong = pc.or_(pc.equal(ids, ""), pc.match_substring_regex(ids, _UNNAMEABLE))
    if not pc.any(wrong, min_count=0).as_py():
        return
    rows = index.filter(wrong)
    columns = (rows[name].to_pylist()[:_SHOWN] for name in ("id", "relative", "row"))
    shown = "; ".join(f"{id!r} in {relative} row {row}" for id, relative, row in zip(*columns, strict=True))
    what = plural(
        rows.num_rows, "id is empty, holds a line break, or begins", "ids are empty, hold a line break, or begin"
    )
    raise DataError(
        f"{what} with a byte order mark, so that no request could name it: {shown}. "
        "Mend the column 'id' (or rename the files)"
    )


def json_text(value: object, name: str, where: str) -> str | None:
    """The id or owner that a JSON field gives, null where there is none; DataError for what names nothing."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise DataError(
            f"{where} has the {name} {value!r}, a {type(value).__name__}, which names no sample exactly; "
            "write it as a string"
        )
    text = str(value)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{where} has the {name} {text!r}, which is no Unicode text; write it again") from error
    return text


def blanks_note(ids: Sequence[str] | pa.ChunkedArray) -> str | None:
    """A sentence on the ids that begin or end with a blank; None where there is none."""
    column = ids if isinstance(ids, pa.ChunkedArray) else pa.chunked_array([pa.array(ids, pa.string())])
    padded = column.filter(pc.not_equal(column, pc.utf8_trim_whitespace(column)))
    if not len(padded):
        return None
    return (
        f"{plural(len(padded), 'id begins or ends', 'ids begin or end')} with a blank, such as {padded[0].as_py()!r}; the blank is part of the id, "
        "and a request must have it too"
    )


def _first(values: pa.Array) -> str:
    """The first value that is not null, and its row."""
    row = next((row for row in range(len(values)) if values[row].is_valid), None)
    return "nothing" if row is None else f"{str(values[row].as_py())[:40]} in row {row}"


def _is_bytes(kind: pa.DataType) -> bool:
    return (
        pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_fixed_size_binary(kind)
        or pa.types.is_binary_view(kind)
    )


def _names_things(kind: pa.DataType) -> bool:
    text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    whole = pa.types.is_integer(kind) or (pa.types.is_decimal(kind) and kind.scale == 0)
    return text or whole or pa.types.is_date(kind) or pa.types.is_timestamp(kind) or pa.types.is_null(kind)
