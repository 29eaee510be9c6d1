"""Pictures that somebody wants to know something of: files, folders, Parquet or tars, in which labels mean nothing."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Sequence

from taft_ray.data import access, hidden, image_folder, parquet, webdataset
from taft_ray.data.formats import suffix_of, unread_format
from taft_ray.data.source_file import Format, SourceFile
from taft_ray.errors import DataError

_AT_ONCE = 64  # pictures read together
_FORMATS: dict[str, Format] = {".parquet": "parquet", ".pq": "parquet", ".tar": "webdataset"}

Named = tuple[str, bytes | None]
"""A picture's name, and its encoded bytes; None where the row has none."""


def find_pictures(places: Sequence[str], given_as: str = "the argument PICTURES") -> list[SourceFile]:
    """The files at these paths and URIs that hold pictures, each place's by name; DataError for a place that has none.

    A single file is a picture whatever its name, unless it is Parquet or a tar. In a folder, names say which files are
    pictures; those in a format that is not read here are among them. ``relative`` is the name that the answer uses: the place
    itself, or the path from there.
    """
    return [file for place in places for file in _of_place(place, given_as)]


def _of_place(place: str, given_as: str) -> list[SourceFile]:
    _, listing = access.list_files(place, given_as)
    shown, _ = hidden.visible(listing, lambda name: False)
    fs, path = access.filesystem(place)
    single = fs.isfile(path)
    files = [
        SourceFile(
            uri=uri,
            relative=place if single else posixpath.join(place, name),
            format=_FORMATS.get(suffix_of(name), "image"),
            size=size,
        )
        for name, (uri, size) in sorted((listing if single else shown).items())
        if single or _holds_pictures(name)
    ]
    if not files:
        raise DataError(f"there are no pictures at {place}; give pictures, a folder of them, Parquet or a tar")
    return files


def _holds_pictures(name: str) -> bool:
    return image_folder.is_image(name) or suffix_of(name) in _FORMATS or unread_format(name) is not None


def read_pictures(files: Sequence[SourceFile]) -> Iterator[list[Named]]:
    """The pictures of all files in order, some at a time."""
    waiting: list[SourceFile] = []
    for file in files:
        if file.format == "image":
            waiting.append(file)
            if len(waiting) == _AT_ONCE:
                yield _files(waiting)
                waiting = []
            continue
        if waiting:
            yield _files(waiting)
            waiting = []
        yield from _rows(file)
    if waiting:
        yield _files(waiting)


def _files(files: Sequence[SourceFile]) -> list[Named]:
    return list(zip((file.relative for file in files), image_folder.read(files), strict=True))


def _rows(file: SourceFile) -> Iterator[list[Named]]:
    if file.format == "parquet":
        for ids, pictures in parquet.pictures(file):
            named = list(zip(ids, pictures, strict=True))
            yield from (named[at : at + _AT_ONCE] for at in range(0, len(named), _AT_ONCE))
        return
    table = webdataset.index(file)
    names, rows = table["id"].to_pylist(), table["row"].to_pylist()
    for at in range(0, len(names), _AT_ONCE):
        some = slice(at, at + _AT_ONCE)
        yield list(zip(names[some], webdataset.read(file, rows[some]), strict=True))
