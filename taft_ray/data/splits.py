"""Splits of a data set: told by the names of folders and files, never taken for classes, and chosen by ``?split=<name>``.

A data set that holds several splits is refused, with both readings named, until one is chosen. Classes by accident and
test rows among the training rows would both be silent.
"""

import posixpath
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from taft_ray.data import access
from taft_ray.errors import DataError, UsageError

ALL = "all"  # every split, on purpose
SAID_BY = "\t"  # between a row's split and the column that says it; no such column has one in its name

_MARK = "?split="
_NAMES = (
    "train", "training", "trainval", "test", "testing", "val", "valid", "validation", "dev", "devel", "eval",
    "evaluation", "validate", "minival", "holdout", "heldout", "unlabeled", "unlabelled",
)  # fmt: skip
_NAME = "|".join(sorted(_NAMES, key=len, reverse=True))
_KIND = "sets?|datasets?|images?|imgs?|pics|pictures?|data|splits?|folder|dir"
# a folder's whole name, such as train2017, val_images, images-test
_FOLDER = re.compile(
    rf"(?:(?:{_KIND})[-_. ]?)?(?P<split>{_NAME})(?:[-_. ]?(?:{_KIND}|\d{{4}}))*(?:[-_. ]?\d{{1,2}})?", re.IGNORECASE
)
_WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")  # of a name, also of one like petsTrain
# columns and fields that say which split a row belongs to; the first ones say nothing else, whatever their values
_EXPLICIT = ("split", "splits", "data_split", "dataset_split")
COLUMNS = (*_EXPLICIT, "subset", "set", "partition", "phase", "usage", "fold")
_NO_NAME = re.compile(r"\d{1,4}|true|false", re.IGNORECASE)  # a value that does not say which split it is
# words around a split's in the name of a flag: is_test, in_val_set, is_training_image
_AROUND = frozenset(
    {"is", "in", "for", "of", "the", "use", "used", "set", "split", "data", "flag", "image", "images", "img", "picture", "sample",
     "samples", "example", "instance", "item", "row"}
)  # fmt: skip
_FLAG = re.compile(r"[A-Za-z]+(?:[-_. ][A-Za-z]+)*")
TRUE, FALSE = ("true", "1", "yes", "t", "y"), ("false", "0", "no", "f", "n")
_SPELLINGS = (
    ("train", "training"), ("test", "testing"), ("val", "valid", "validation", "validate"), ("dev", "devel"),
    ("eval", "evaluation"), ("holdout", "heldout"),
)  # fmt: skip
_COMMON = {word: words[0] for words in _SPELLINGS for word in words}
_SHORT = {"Tr": "train", "trn": "train", "Ts": "test", "tst": "test"}  # imagesTr, as some medical data sets have it


@dataclass(frozen=True)
class Place:
    """An address without the split that was chosen with it; None where none was."""

    uri: str
    split: str | None


def place_of(uri: str) -> Place:
    """The parts of ``<place>?split=<name>``; a path that is there under the whole name is only a path."""
    place, mark, split = uri.rpartition(_MARK)
    if not mark or "/" in split or access.exists(uri):
        return Place(uri, None)
    if not place or not split:
        raise UsageError(f"{uri!r}: expected <path or URI>{_MARK}<name>")
    return Place(place.rstrip("/") or place, split)


def with_split(uri: str, split: str | None) -> str:
    """The address of one split of a data set."""
    if split is None:
        return uri
    if not split or "/" in split or "?" in split:
        raise UsageError(f"--split {split!r}: expected a name such as train")
    if _MARK in uri:
        raise UsageError(f"{uri!r} names a split already; leave --split out")
    return f"{uri}{_MARK}{split}"


def split_folder(relative: str) -> str | None:
    """The folder of a path that is named as a split, as it is written; None where there is none."""
    return next((part for part in relative.split("/")[:-1] if is_split(part)), None)


def word_of(name: str) -> str | None:
    """The split that a word of a name says: ``seg_train``, ``petsTest``, ``split=val``; None where none does."""
    words = _WORDS.findall(name)
    known = next((canonical(word) for word in words if is_split(word)), None)
    return known or next((_SHORT[word] for word in words if word in _SHORT), None)


def folder_of(relative: str) -> str | None:
    """The folder of a path that is named as a split, or that has such a word in its name; None where there is none."""
    folders = relative.split("/")[:-1]
    return split_folder(relative) or next((part for part in folders if word_of(part)), None)


def split_of_file(relative: str) -> str | None:
    """The split that a file of many rows belongs to, by its folder or a word of its name; None where nothing says."""
    folder = folder_of(relative)
    return folder or word_of(posixpath.splitext(posixpath.basename(relative))[0])


def is_split(name: str) -> bool:
    """Whether a word is the name of a split; a folder such as ``is_test=1`` of a partitioned table is one, too."""
    return _FOLDER.fullmatch(name) is not None or _of_partition(name) is not None


def canonical(name: str) -> str:
    """The common form of the spellings of a split: ``Train``, ``train2017`` and ``train_images`` are ``train``."""
    found = _FOLDER.fullmatch(name)
    return found["split"].lower() if found else _of_partition(name) or word_of(name) or name.lower()


def common(name: str) -> str:
    """One word for ``val``, ``valid`` and ``validation``, and for other words that mean one split."""
    word = canonical(name)
    return _COMMON.get(word, word)


def flag_of(column: str) -> str | None:
    """The split that a column of yes and no is about, ``test`` for ``is_test``; None for another name."""
    words = _WORDS.findall(column) if _FLAG.fullmatch(column) else []
    found = [common(word) for word in words if common(word) in {*_COMMON.values(), "trainval"}]
    others = [word for word in words if word.lower() not in _AROUND]
    return found[0] if len(found) == len(others) == 1 else None


def rest_of(flags: Iterable[str]) -> str | None:
    """The split of rows that are in none of these; None where that is no split that a name is known for."""
    said = set(flags)
    if not said & {"train", "trainval"}:
        return "train"
    return None if said & {"test", "eval", "holdout"} else "test"


def has_no_name(value: str) -> bool:
    """Whether the value of a split's column does not say which split it is: 0, 1, true."""
    return _NO_NAME.fullmatch(value) is not None


def is_explicit(column: str) -> bool:
    """Whether a column of this name says the split, whatever its values are."""
    return column.lower() in _EXPLICIT


def _of_partition(folder: str) -> str | None:
    """The split that the folder of a partitioned table is of: ``is_test=1``, ``split=0``; None for other folders."""
    name, _, value = folder.partition("=")
    if not value:
        return None
    flag = flag_of(name)
    if flag is not None and value.lower() in TRUE + FALSE:
        return flag if value.lower() in TRUE else rest_of([flag])
    named = _FOLDER.fullmatch(value) is not None or has_no_name(value) or is_explicit(name)
    return canonical(value) if name.lower() in COLUMNS and named else None


def meant(names: Iterable[str | None], chosen: str) -> frozenset[str]:
    """Which of the names are the split asked for: those spelled so, else spellings of it, else words that mean it."""
    there = {name for name in names if name is not None}
    alike = {name for name in there if canonical(name) == canonical(chosen)}
    return frozenset({chosen} & there or alike or {name for name in there if common(name) == common(chosen)})


def distinct(names: Iterable[str | None]) -> tuple[str, ...]:
    """The different splits, whatever their case, sorted."""
    spelling: dict[str, str] = {}
    for name in names:
        if name is not None:
            spelling.setdefault(name.lower(), name)
    return tuple(sorted(spelling.values()))


def contradict(folder: str | None, field: str | None) -> bool:
    """Whether a sample's folder and its field say different splits; ``trainval`` has both of its parts."""
    if folder is None or field is None or not is_split(field):
        return False
    words = {common(folder), common(field)}
    return len(words) > 1 and not ("trainval" in words and words <= {"trainval", "train", "val"})


def check_rows(told: Iterable[str | None]) -> None:
    """DataError where the rows themselves say that they belong to several splits, and none was chosen.

    told: a split and, behind `SAID_BY`, the column that says it; empty for a folder.
    """
    pairs = [(name, by) for name, _, by in (text.rpartition(SAID_BY) for text in told if text is not None)]
    counted = [pair for pair in pairs if is_split(pair[0]) or has_no_name(pair[0]) or is_explicit(pair[1])]
    there = distinct(name for name, _ in counted)
    if len(there) > 1:
        columns = sorted({repr(name) for _, by in counted for name in by.split(", ") if name})
        which = f"the column {' and '.join(columns)}" if columns else "a folder or column"
        raise DataError(
            f"{which} of the data says that its rows belong to the splits {', '.join(there)}, which would be read together: "
            f"{choose('DATA', there)}. Rename the column if it says something else"
        )


def choose(uri: str, names: Sequence[str]) -> str:
    """How to choose one of the splits, for a message."""
    return f"give one of them (--split {names[0]}, or {uri}{_MARK}{names[0]}), or {_MARK}{ALL} for all of them together"
