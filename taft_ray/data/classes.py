"""The classes, and each row's number among them."""

# pyarrow.compute makes its functions when it is imported
# pyright: reportAttributeAccessIssue=false

from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from taft_ray.errors import DataError, UsageError

_MAX_NUMBERED = 100_000  # a label above this is an id or a time, not a class
_SHOWN = 12


def resolve_classes(
    source_classes: Sequence[str] | None, labels: Iterable[str | None], given: Sequence[str] | None = None
) -> tuple[str, ...]:
    """The classes' names in order: the user's, else the data's own, else 0..max of numbers, else the sorted labels."""
    if given is not None:
        if not given or len(set(given)) != len(given):
            raise UsageError(f"the classes must be different names, got {_short(given)}")
        return tuple(given)
    if source_classes:
        return tuple(source_classes)
    found = {label for label in labels if label is not None}
    if not found:
        raise DataError(
            "no row has a label, so there are no classes; check the column 'label', the .cls or the folders"
        )
    if all(_is_number(label) for label in found):
        highest = max(int(label) for label in found)
        if highest >= _MAX_NUMBERED:
            raise DataError(
                f"the label {highest} is too large for a class number (below {_MAX_NUMBERED}); name the classes"
            )
        return tuple(str(number) for number in range(highest + 1))
    return tuple(sorted(found))


def label_index(label: str, classes: Sequence[str]) -> int:
    """The number of one label: a class's name, else a class's number."""
    if label in classes:
        return list(classes).index(label)
    if _is_number(label) and int(label) < len(classes):
        return int(label)
    raise DataError(f"the label {label!r} is none of the {len(classes)} classes {_short(classes)}")


def label_column(index: pa.Table, classes: Sequence[str]) -> np.ndarray:
    """The number of each row's label, int64; -1 for rows that are rejected already.

    The column is read as names where every label is a class's name, else as numbers where every label is one: a label
    "1" among the labels 0, 1, 2 means the second class even if the classes are called 1, 2, 3.
    """
    usable = pc.and_(pc.is_null(index["reason"]), pc.is_valid(index["label"]))
    labels = index["label"]
    by_name = _positions(labels, classes)
    outside = pc.and_(usable, pc.is_null(by_name))
    numbers = by_name
    if pc.any(outside).as_py():
        numbers = _positions(labels, [str(number) for number in range(len(classes))])
        if pc.any(pc.and_(usable, pc.is_null(numbers))).as_py():
            _raise_outside(index, outside, classes)
    return pc.if_else(usable, pc.fill_null(numbers, -1), -1).to_numpy().astype(np.int64)


def _positions(labels: pa.ChunkedArray, names: Sequence[str]) -> pa.ChunkedArray:
    return pc.index_in(labels, value_set=pa.array(names, pa.string()), skip_nulls=True).cast(pa.int64())


def _raise_outside(index: pa.Table, outside: pa.ChunkedArray, classes: Sequence[str]) -> None:
    wrong = index.filter(outside)
    rows = zip(
        wrong["label"].to_pylist()[:3], wrong["relative"].to_pylist()[:3], wrong["row"].to_pylist()[:3], strict=True
    )
    shown = "; ".join(f"{label!r} in {relative} row {row}" for label, relative, row in rows)
    raise DataError(
        f"{wrong.num_rows} of {index.num_rows} rows have a label outside the {len(classes)} classes {_short(classes)}: "
        f"{shown}. Is this another data set? Otherwise name all classes"
    )


def _is_number(label: str) -> bool:
    return label.isascii() and label.isdecimal() and str(int(label)) == label


def _short(classes: Sequence[str]) -> str:
    return str(list(classes)) if len(classes) <= _SHOWN else f"{list(classes[:_SHOWN])[:-1]} … {classes[-1]!r}"
