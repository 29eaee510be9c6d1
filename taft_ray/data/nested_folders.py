"""Class folders that have folders of their own, beside others that have none: which of them are the classes?

A folder is flat where pictures lie in it, or in one chain of folders below it. It is nested where its pictures lie in two
or more folders side by side.
"""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from taft_ray.data import splits
from taft_ray.data.image_folder import in_writers_folder, is_image
from taft_ray.data.source_file import SourceFile

_SHOWN = 4


@dataclass(frozen=True)
class _Nested:
    """The folder in which the folders side by side lie, and their names."""

    path: str
    inner: frozenset[str]


def two_readings(uri: str, files: Sequence[SourceFile]) -> str:
    """Why the classes may be the first folders or those in them, and the ways out; "" where one reading is plain.

    Guarantees: folders that are all flat are plain, and so are nested ones that share no names. So is a nested folder whose
    own folders are fewer than the flat ones beside it, and have other names.
    """
    below: dict[str, set[tuple[str, ...]]] = {}
    for file in files:
        folders = _folders(file)
        if folders and is_image(file.relative) and not in_writers_folder(file.relative):
            below.setdefault(folders[0], set()).add(tuple(folders[1:]))
    nested = {top: found for top, paths in below.items() if (found := _nested(top, paths)) is not None}
    flat = below.keys() - nested.keys()
    if len(below) < 2 or not nested:
        return ""
    inner = frozenset().union(*(found.inner for found in nested.values()))
    first = nested[min(nested)]
    where = f"{uri}/{first.path}" if all(file.label is None for file in files) else f"its folder {first.path!r}"
    if flat and (len(inner) >= len(flat) or inner & flat):
        return _message(uri, below, f"the folders in {first.path!r}, {_some(first.inner)}", where)
    shared = frozenset.intersection(*(found.inner for found in nested.values()))
    if not flat and len(shared) > 1:
        return _message(uri, below, f"the folders in each of them, {_some(shared)}", f"one of them, {where},")
    return ""


def _message(uri: str, tops: Iterable[str], other: str, way_out: str) -> str:
    return (
        f"the folders of {uri} can be read in two ways: the classes are the first ones, {_some(tops)}, or {other}; give {way_out} as "
        "the data, or name all classes with --classes"
    )


def _folders(file: SourceFile) -> list[str]:
    """The folders of a picture from its class on, without the split's."""
    folders = file.relative.split("/")[:-1]
    if file.label is None:
        return folders
    split = splits.folder_of(file.relative)
    if split in folders:
        folders.remove(split)
    return folders[folders.index(file.label) :] if file.label in folders else []


def _nested(top: str, paths: set[tuple[str, ...]]) -> _Nested | None:
    ends = zip(min(paths), max(paths), strict=False)
    prefix = tuple(one for one, _ in itertools.takewhile(lambda pair: pair[0] == pair[1], ends))
    if prefix in paths:
        return None
    return _Nested("/".join((top, *prefix)), frozenset(path[len(prefix)] for path in paths))


def _some(names: Iterable[str]) -> str:
    listed = sorted(names)
    return ", ".join(listed[:_SHOWN]) + (f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else "")
