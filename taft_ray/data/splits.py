"""Splits of a data set: told by the names of folders and files, never taken for classes, and chosen by ``?split=<name>``.

A data set that holds several splits is refused, with both readings named, until one is chosen: classes by accident and
test rows among the training rows would both be silent.
"""

import posixpath
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from taft_ray.data import access
from taft_ray.errors import DataError, UsageError

ALL = "all"  # every split, on purpose

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
    """Whether a word is the name of a split."""
    return _FOLDER.fullmatch(name) is not None


def canonical(name: str) -> str:
    """What two spellings of a split have in common: ``Train``, ``train2017`` and ``train_images`` are ``train``."""
    found = _FOLDER.fullmatch(name)
    return found["split"].lower() if found else word_of(name) or name.lower()


def meant(names: Iterable[str | None], chosen: str) -> frozenset[str]:
    """Which of the names are the split asked for: those spelled so, else those that are spellings of it."""
    there = {name for name in names if name is not None}
    return frozenset({chosen} & there or {name for name in there if canonical(name) == canonical(chosen)})


def distinct(names: Iterable[str | None]) -> tuple[str, ...]:
    """The different splits, whatever their case, sorted."""
    spelling: dict[str, str] = {}
    for name in names:
        if name is not None:
            spelling.setdefault(name.lower(), name)
    return tuple(sorted(spelling.values()))


def check_rows(names: Iterable[str | None]) -> None:
    """DataError where the rows themselves say that they belong to several splits, and none was chosen."""
    there = distinct(name for name in names if name is not None and is_split(name))
    if len(there) > 1:
        raise DataError(
            f"a column of the data says that its rows belong to the splits {', '.join(there)}, which would be read together: "
            f"{choose('DATA', there)}; rename the column if it says something else"
        )


def choose(uri: str, names: Sequence[str]) -> str:
    """How to choose one of the splits, for a message."""
    return f"give one of them (--split {names[0]}, or {uri}{_MARK}{names[0]}), or {_MARK}{ALL} for all of them together"
