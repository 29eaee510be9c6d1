"""The split of each row, told by columns of a Parquet file or JSON fields of a tar.

A column has the splits' names (``split``), or yes and no (``is_test``), or numbers whose names nobody tells.
"""

# pyarrow.compute makes its functions when it is imported
# pyright: reportAttributeAccessIssue=false

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from taft_ray.data import splits
from taft_ray.errors import DataError

_MOST_UNNAMED = 20  # more different numbers count something else


@dataclass(frozen=True)
class Told:
    """The split of each row, null where nothing says it, and the column that says it."""

    splits: pa.Array
    by: str


def may_tell(name: str) -> bool:
    """Whether a column or field of this name may say which split a row belongs to."""
    return name.lower() in splits.COLUMNS or splits.flag_of(name) is not None


def text_of(value: Any) -> str | None:
    """A field's value as `told` takes it; None for what names no split."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else None
    return str(value) if isinstance(value, str | int) else None


def texts_of(column: pa.ChunkedArray) -> pa.Array | None:
    """A column's values as `told` takes them; None for a type that names no split."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        return texts_of(column.cast(kind.value_type))
    if pa.types.is_floating(kind):
        whole = pc.equal(column, pc.floor(column))
        if not pc.all(whole, min_count=0).as_py():
            return None
        column = pc.if_else(whole, column, None).cast(pa.int64(), safe=False)
    elif not (_is_text(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind)):
        return None
    return pa.concat_arrays([pa.array([], pa.string()), *(chunk.cast(pa.string()) for chunk in column.chunks)])


def with_source(names: pa.Array, by: str | pa.Array) -> pa.Array:
    """Each split with the column that says it, as `splits.check_rows` takes them."""
    return pc.binary_join_element_wise(names, by, splits.SAID_BY)


def told(columns: Mapping[str, pa.Array], chosen: str | None, where: str) -> Told | None:
    """The word of the first column that tells: one with names of splits, flags together, else numbers without names.

    columns: texts by name, see `texts_of`. Raises DataError where a split is chosen and flags of one row say two.
    """
    named = {name: set(_values(columns[name])) for name in columns if name.lower() in splits.COLUMNS}
    for name, values in named.items():
        if chosen in values or any(map(splits.is_split, values)):
            return Told(columns[name], name)
    flags = {name: _truth(column) for name, column in columns.items() if splits.flag_of(name) is not None}
    known = {name: truth for name, truth in flags.items() if truth is not None}
    if known:
        return Told(_of_flags(known, chosen, where), ", ".join(known))
    for name, values in named.items():
        unnamed = splits.is_explicit(name) or all(map(splits.has_no_name, values))
        if unnamed and 0 < len(values) <= _MOST_UNNAMED:
            return Told(columns[name], name)
    return None


def are_chosen(names: pa.Array, chosen: str, relative: str) -> pa.Array:
    """Which rows belong to the chosen split. A file that is named as this split has those that say nothing, too.

    names: the split of each row, null where nothing says it. All rows of such a file are meant where none says the split.
    """
    meant = pa.array(list(splits.meant(names.unique().to_pylist(), chosen)), pa.string())
    found = pc.is_in(names, value_set=meant)
    if not splits.meant([splits.split_of_file(relative)], chosen):
        return found
    return pc.or_(found, pc.is_null(names)) if len(meant) else pa.repeat(True, len(names))


def _values(column: pa.Array) -> list[str]:
    return [value for value in column.unique().to_pylist() if value is not None]


def _truth(column: pa.Array) -> pa.Array | None:
    """Yes and no, null where a value is missing; None where there is another value, or none."""
    lower = pc.utf8_lower(column)
    values = _values(lower)
    if not values or not {*values} <= {*splits.TRUE, *splits.FALSE}:
        return None
    return pc.if_else(pc.is_null(column), None, pc.is_in(lower, value_set=pa.array(splits.TRUE)))


def _of_flags(flags: Mapping[str, pa.Array], chosen: str | None, where: str) -> pa.Array:
    """The split of the flag that is set, else of the rest; null where no flag has a value."""
    of_column = {name: str(splits.flag_of(name)) for name in flags}
    finest = sorted(flags, key=lambda name: of_column[name] == "trainval")  # a part of it may be set with it
    rows = len(next(iter(flags.values())))
    found = pa.nulls(rows, pa.string())
    any_value = pa.repeat(False, rows)
    for name in finest:
        is_set = pc.fill_null(flags[name], False)
        clash = pc.and_(is_set, pc.and_not(pc.is_valid(found), pc.equal(pc.fill_null(found, ""), of_column[name])))
        if chosen is not None and of_column[name] != "trainval" and pc.any(clash, min_count=0).as_py():
            row = pc.index(clash, True).as_py()
            raise DataError(
                f"row {row} of {where} is in the splits {found[row].as_py()} and {of_column[name]}, as its columns {', '.join(flags)} "
                f"say; mend it, or read all splits with --split {splits.ALL}"
            )
        found = pc.if_else(pc.and_(is_set, pc.is_null(found)), of_column[name], found)
        any_value = pc.or_(any_value, pc.is_valid(flags[name]))
    rest = pa.scalar(splits.rest_of(of_column.values()), pa.string())
    return pc.if_else(pc.and_(any_value, pc.is_null(found)), rest, found)


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
