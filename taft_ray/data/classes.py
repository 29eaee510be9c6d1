"""The classes, and each row's number among them."""

# pyarrow.compute makes its functions when it is imported
# pyright: reportAttributeAccessIssue=false

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from taft_ray.counting import plural
from taft_ray.data.no_label import LARGEST_UINT16, MISSING, NO_NAME, is_below_zero
from taft_ray.errors import DataError, UsageError

_MAX_NUMBERED = 100_000  # a label above this is an id or a time, not a class
_SHOWN = 12
_INTEGER = re.compile(r"-?[0-9]{1,18}")  # a longer one is no number of a class
_NUMBERED = re.compile(r"\s*(\d{1,18})|.*?(\d{1,18})\s*$")  # at a name's beginning, else at its end


def resolve_classes(
    source_classes: Sequence[str] | None,
    labels: Iterable[str | None],
    given: Sequence[str] | None = None,
    two_readings: str = "",
) -> tuple[str, ...]:
    """The classes' names in order: the user's, else the data's own, else 0..max of numbers, else the sorted labels.

    DataError where the data's labels can be read in two ways, and where there is one class only: name the classes then.

    two_readings: what is known of that already, see `Source`.
    """
    if given is not None:
        if not given or len(set(given)) != len(given):
            raise UsageError(f"the classes must be different names, got {_short(given)}")
        return tuple(given)
    found = set(source_classes) if source_classes else {label for label in labels if label is not None}
    if not found:
        raise DataError(
            "no row has a label, so there are no classes; check the column 'label', the .cls or the folders"
        )
    if two_readings:
        raise DataError(two_readings)
    _refuse_two_readings(found, named=bool(source_classes))
    if source_classes:
        return tuple(source_classes)
    if all(_is_number(label) for label in found):
        *_, below, highest = [-1, *sorted(int(label) for label in found)]
        if highest >= _MAX_NUMBERED:
            raise DataError(
                f"the label {highest} is too large for a class number (below {_MAX_NUMBERED}); name the classes"
            )
        if highest == LARGEST_UINT16 and below <= LARGEST_UINT16 // 2:
            raise DataError(
                f"the label {highest} is -1 in 16 bits without a sign, which means that there is no label, or is a class far above "
                f"{below}. Leave its rows without a label, or name all classes with --classes"
            )
        return tuple(str(number) for number in range(highest + 1))
    return tuple(sorted(found))


def more_classes(
    known: Sequence[str], source_classes: Sequence[str] | None, labels: Iterable[str | None], two_readings: str = ""
) -> tuple[str, ...]:
    """The classes of a run that gets more data: those that it has, and behind them the new ones, sorted.

    Labels that name or number a known class bring none. DataError where the labels can be read in two ways.
    """
    found = {label for label in labels if label is not None}
    try:
        for label in found:
            label_index(label, known)
        return tuple(known)
    except DataError:
        pass
    if two_readings:
        raise DataError(two_readings)
    new = found - set(known)
    if len(found | set(known)) > 1:
        _refuse_two_readings(found | set(known), named=bool(source_classes))
    return (*known, *sorted(new, key=lambda label: (int(label), "") if _is_number(label) else (0, label)))


def _refuse_two_readings(found: set[str], named: bool) -> None:
    """DataError for labels that may be classes or something else; ``named``: the data itself names them as classes."""
    if len(found) == 1:
        (only,) = found
        raise DataError(
            f"the data has only one class, {only!r}, so that there is nothing to tell apart. Did you mean a folder below, or is "
            "the label another column? Otherwise name all classes with --classes"
        )
    bare: dict[str, str] = {}
    for label in sorted(found):
        other = bare.setdefault(label.strip().strip("\ufeff").strip(), label)
        if other != label and not named:
            raise DataError(
                f"the labels {other!r} and {label!r} differ in blanks or a byte order mark alone: one class, or two? Mend them, or "
                "name all classes with --classes"
            )
    missing = sorted(found & (NO_NAME if named else MISSING))
    if missing:
        raise DataError(
            f"the label {missing[0]!r} is a missing value written as text, or a class of this name. Leave its rows without a "
            "label, or name all classes with --classes"
        )
    integers = {label for label in found if _INTEGER.fullmatch(label)}
    below = sorted(filter(is_below_zero, found))
    if below:
        raise DataError(
            f"the label {below[0]!r} means that there is no label, or is a class among {_short(sorted(found))}. Leave its rows "
            "without a label, or name all classes with --classes"
        )
    by_value = Counter(map(int, integers))
    twice = sorted(label for label in integers if by_value[int(label)] > 1)
    if twice:
        raise DataError(
            f"the labels {twice[0]!r} and {twice[1]!r} are one number written in two ways; write it in one way, or name all "
            "classes with --classes"
        )
    if integers and integers != found and not named:
        names = sorted(found - integers)
        raise DataError(
            f"some labels are numbers, such as {sorted(integers)[0]!r}, and some are names, such as {names[0]!r}: are the numbers "
            "positions among the names, or classes themselves? Write them all in one way, or name all classes with --classes"
        )


def label_index(label: str, classes: Sequence[str]) -> int:
    """The number of one label: a class's name, else a class's number where no class is called by a number."""
    if label in classes:
        return list(classes).index(label)
    _refuse_other_numbers([label], classes)
    position = _numbers(classes).get(label)
    if position is None:
        raise DataError(f"the label {label!r} is none of the {len(classes)} classes {_short(classes)}")
    return position


def label_column(index: pa.Table, classes: Sequence[str]) -> np.ndarray:
    """The number of each row's label, int64; -1 for rows that are rejected already.

    The column is read as names where every label is a class's name, else as numbers where every label is one. A number is a
    class's position, except where classes are called by numbers: there it is the class of that number, "1" or "01".
    """
    usable = pc.and_(pc.is_null(index["reason"]), pc.is_valid(index["label"]))
    labels = index["label"]
    by_name = _positions(labels, {name: position for position, name in enumerate(classes)})
    outside = pc.and_(usable, pc.is_null(by_name))
    numbers = by_name
    if pc.any(outside).as_py():
        if pc.all(pc.match_substring_regex(labels.filter(usable), "^[0-9]+$")).as_py():
            _refuse_other_numbers(labels.filter(usable).unique().to_pylist(), classes)
        numbers = _positions(labels, _numbers(classes))
        if pc.any(pc.and_(usable, pc.is_null(numbers))).as_py():
            _raise_outside(index, outside, classes)
    return pc.if_else(usable, pc.fill_null(numbers, -1), -1).to_numpy().astype(np.int64)


def _numbers(classes: Sequence[str]) -> dict[str, int]:
    """Which class an integer label means, by its text."""
    named = [name for name in classes if _INTEGER.fullmatch(name)]
    if not named:
        return {str(position): position for position in range(len(classes))}
    once = {value for value, count in Counter(map(int, named)).items() if count == 1}
    return {
        str(int(name)): position
        for position, name in enumerate(classes)
        if _INTEGER.fullmatch(name) and int(name) in once
    } | {name: position for position, name in enumerate(classes)}


def _refuse_other_numbers(labels: Iterable[str], classes: Sequence[str]) -> None:
    """DataError where a label is a number that another class than the one at this position has in its name."""
    found = ((position, name, _NUMBERED.match(name)) for position, name in enumerate(classes))
    in_names = {int(part[1] or part[2]): (position, name) for position, name, part in found if part}
    for label in sorted(labels):
        position, name = in_names.get(int(label) if _is_number(label) else -1, (-1, ""))
        if name and position != int(label) and not _INTEGER.fullmatch(name):
            raise DataError(
                f"the labels are numbers, such as {label!r}, and the classes have numbers in their names, {_short(classes)}. "
                f"Are the labels positions among the classes, or the numbers in the names, {name!r}? Write the labels as names"
            )


def note_of_alike(classes: Sequence[str]) -> str | None:
    """A sentence on classes whose names differ in case, blanks or Unicode form alone; None where there are none."""
    alike: dict[str, list[str]] = {}
    for name in classes:
        alike.setdefault(" ".join(unicodedata.normalize("NFKC", name).casefold().split()), []).append(name)
    twice = [names for names in alike.values() if len(names) > 1]
    if not twice:
        return None
    return f"{plural(len(twice), 'class differs', 'classes differ')} from others in case, blanks or Unicode form alone, such as {twice[0]}; are they the same?"


def _positions(labels: pa.ChunkedArray, position_of: Mapping[str, int]) -> pa.ChunkedArray:
    positions = pa.array(list(position_of.values()), pa.int64())
    found = pc.index_in(labels, value_set=pa.array(list(position_of), pa.string()), skip_nulls=True)
    return pc.take(positions, found)


def _raise_outside(index: pa.Table, outside: pa.ChunkedArray, classes: Sequence[str]) -> None:
    wrong = index.filter(outside)
    rows = zip(
        wrong["label"].to_pylist()[:3], wrong["relative"].to_pylist()[:3], wrong["row"].to_pylist()[:3], strict=True
    )
    shown = "; ".join(f"{label!r} in {relative} row {row}" for label, relative, row in rows)
    raise DataError(
        f"{wrong.num_rows} of {plural(index.num_rows, 'row')} {'has' if wrong.num_rows == 1 else 'have'} a label outside the "
        f"{len(classes)} classes {_short(classes)}: "
        f"{shown}. Is this another data set? Otherwise name all classes"
    )


def _is_number(label: str) -> bool:
    return _INTEGER.fullmatch(label) is not None and label.isdecimal() and str(int(label)) == label


def _short(classes: Sequence[str]) -> str:
    return str(list(classes)) if len(classes) <= _SHOWN else f"{list(classes[:_SHOWN])[:-1]} … {classes[-1]!r}"
