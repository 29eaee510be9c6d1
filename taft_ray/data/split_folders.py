"""Class folders under, or beside, folders of splits: which pictures belong to the chosen split, and what their classes are."""

from collections.abc import Sequence
from dataclasses import replace

from taft_ray.data import splits
from taft_ray.data.image_folder import in_writers_folder, is_image
from taft_ray.data.source_file import SourceFile
from taft_ray.errors import DataError, UsageError

_ALSO_A_CLASS = "train"  # there are pictures of trains
_KINDS_OF_FILES = frozenset({"images", "imgs", "masks", "labels", "annotations", "segmentations", "depth", "crops"})


def of_split(uri: str, files: Sequence[SourceFile], chosen: str | None) -> tuple[SourceFile, ...]:
    """The files of the chosen split, each with its class; DataError where the folders may be splits and none is chosen."""
    pictures = [file.relative for file in files if is_image(file.relative) and not in_writers_folder(file.relative)]
    if chosen is None:
        _refuse_splits(uri, pictures)
        return tuple(files)
    folders = {file.relative: splits.folder_of(file.relative) for file in files}
    if chosen == splits.ALL:
        return _with_classes(uri, files)
    meant = splits.meant((folders[relative] for relative in pictures), chosen)
    found = [file for file in files if folders[file.relative] in meant]
    if not any(is_image(file.relative) for file in found):
        names = splits.distinct(folders[relative] for relative in pictures)
        raise UsageError(f"{uri} has no pictures of a split {chosen!r}; it has {', '.join(names) or 'no splits'}")
    return _with_classes(uri, found)


def _with_classes(uri: str, files: Sequence[SourceFile]) -> tuple[SourceFile, ...]:
    """The class is the folder behind the split's, or the first one before it where nothing is behind."""
    around = [_around(file.relative) for file in files]
    shown = [place for file, place in zip(files, around, strict=True) if is_image(file.relative)]
    before, behind = ({place[at] for place in shown if place[at]} for at in (0, 1))
    if len(before) > 1 and len(behind) > 1:
        raise DataError(
            f"{uri} has the folders {', '.join(sorted(before)[:3])} before the split's and {', '.join(sorted(behind)[:3])} behind "
            "it: which are the classes? Give one of the outer folders, or move the inner ones out"
        )
    first = 1 if behind and len(before) <= 1 else 0
    return tuple(
        replace(file, label=place[first] or place[1 - first]) for file, place in zip(files, around, strict=True)
    )


def _around(relative: str) -> tuple[str, str]:
    """The first folder before the split's and the first one behind it; empty where there is none."""
    folders = relative.split("/")[:-1]
    split = splits.folder_of(relative)
    at = folders.index(split) if split in folders else len(folders)
    return (folders[0] if at else ""), (folders[at + 1] if at + 1 < len(folders) else "")


def _refuse_splits(uri: str, pictures: Sequence[str]) -> None:
    """DataError where folders can be read as splits or as classes."""
    names = splits.distinct(map(splits.split_folder, pictures))
    inner: dict[str, set[str]] = {}  # what lies in each first folder; a picture itself as ""
    for relative in pictures:
        parts = relative.split("/")
        if len(parts) > 1:
            inner.setdefault(parts[0], set()).add(parts[1] if len(parts) > 2 else "")
    if len(names) < 2:
        names = _named_by_words(inner) or names
    if len(names) > 1:
        raise DataError(
            f"{uri} holds the splits {', '.join(names)}, or classes of these names: {splits.choose(uri, names)}; "
            "rename the folders if they are classes"
        )
    if len(inner) > 1 and {top.lower() for top in inner} <= _KINDS_OF_FILES:
        raise DataError(
            f"{uri} holds the folders {', '.join(sorted(inner))}, which are kinds of files and no classes; give the folder whose "
            "folders are the classes"
        )
    if names:
        _refuse_one(uri, names[0], pictures, inner)


def _named_by_words(inner: dict[str, set[str]]) -> tuple[str, ...]:
    """The first folders that have the names of different splits in theirs, where all have, or where they hold the same."""
    words = {top: splits.word_of(top) for top in inner}
    named = sorted(top for top, word in words.items() if word)
    if len({words[top] for top in named}) < 2:
        return ()
    alike = any(words[a] != words[b] and (inner[a] & inner[b]) - {""} for a in named for b in named)
    return tuple(named) if alike or len(named) == len(inner) else ()


def _refuse_one(uri: str, name: str, pictures: Sequence[str], inner: dict[str, set[str]]) -> None:
    """DataError where one folder that is named as a split lies beside others."""
    outside = next((relative for relative in pictures if splits.split_folder(relative) is None), None)
    if outside is None:
        return
    own = inner.get(name, set()) - {""}
    shared = next((top for top in sorted(inner) if top != name and inner[top] & own), None)
    if splits.canonical(name) == _ALSO_A_CLASS and shared is None and len(own) < 2:
        return
    what = f"and {shared!r} with the same folders in it" if shared else f"and pictures beside it, such as {outside!r}"
    raise DataError(
        f"{uri} holds the folder {name!r}, a split or a class of this name, {what}: {splits.choose(uri, [name])}; "
        "rename the folder if it is a class"
    )
