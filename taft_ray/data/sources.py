"""Open a data set of any format; index its rows and read its pictures, one file at a time."""

import posixpath
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pyarrow as pa

from taft_ray.data import (
    access,
    datasets,
    hidden,
    image_folder,
    nested_folders,
    parquet,
    split_folders,
    splits,
    webdataset,
)
from taft_ray.data.formats import unread_format
from taft_ray.data.ids import check_ids
from taft_ray.data.source_file import Format, Source, SourceFile
from taft_ray.errors import DataError, UsageError

_FORMATS = "a folder with a folder a class, Parquet (image, label) or WebDataset .tar"
_PARQUET_SUFFIXES = frozenset({".parquet", ".pq"})
# files that people put beside data; any other beside Parquet or tar files may be data that would be lost
_NOTES = frozenset({".md", ".txt", ".rst", ".json", ".jsonl", ".yaml", ".yml", ".csv", ".idx", ".sha256", ".crc"})
_NOTE_NAMES = frozenset(
    {"readme", "license", "licence", "copying", "notice", "changelog", "authors", "citation", "sha256sums", "md5sums"}
)
_COMPRESSED = (".tar.gz", ".tgz", ".tar.zst", ".tar.bz2", ".tar.xz", ".zip")


def open_source(uri: str) -> Source:
    """List the data and tell its format; only a footer or two, or a data set's own lists, are read, no picture.

    uri: a path or URI of data in a known format, perhaps with ``?split=<name>``, or a published data set by name
    (`datasets`).

    Guarantees: every visible file of a class folder, and every Parquet or tar file, of the chosen split is in ``files``
    exactly once. Files passed over are counted in ``notes``. Files are sorted by relative path. The same data gives the
    same ``relative`` wherever it lies. Data that holds several splits is refused until one is chosen.
    """
    if datasets.is_named(uri):
        return datasets.open_dataset(uri)
    place = splits.place_of(uri)
    _, listing = access.list_files(place.uri)
    visible, notes = hidden.visible(listing, lambda name: _kind(name) is not None)
    if not visible:
        passed = f" ({'; '.join(notes)})" if notes else ""
        raise DataError(f"there are no files in {place.uri}{passed}; it must be {_FORMATS}")
    hidden.check_no_table(place.uri, listing)
    kind = _format(place.uri, list(visible))
    files = tuple(
        SourceFile(uri=where, relative=name, format=kind, size=size)
        for name, (where, size) in sorted(visible.items())
        if kind == "image" or _kind(name) == kind
    )
    if kind == "image":
        files = split_folders.of_split(place.uri, files, place.split)
        wrapped = _wrapped(place.uri, files) if place.split is None else ()
        two_readings = nested_folders.two_readings(place.uri, files)
        return Source(uri, kind, files, image_folder.classes_of(place.uri, files), notes + wrapped, two_readings)
    files = _of_split(place.uri, files, place.split)
    return Source(uri, kind, files, parquet.classes_of(files[0]) if kind == "parquet" else None, notes)


def _wrapped(uri: str, files: Sequence[SourceFile]) -> tuple[str, ...]:
    top = image_folder.wrapped(files)
    if top is None:
        return ()
    return (f"all pictures are in the one class folder {top!r}, in folders of its own: did you mean {uri}/{top}?",)


def _of_split(uri: str, files: tuple[SourceFile, ...], chosen: str | None) -> tuple[SourceFile, ...]:
    """The files of many rows that belong to the chosen split; DataError where there are several and none is chosen."""
    of_file = {file.relative: splits.split_of_file(file.relative) for file in files}
    names = splits.distinct(of_file.values())
    if chosen is None:
        if len(names) > 1:
            raise DataError(
                f"{uri} holds files of the splits {', '.join(names)}, which would be read together: {splits.choose(uri, names)}"
            )
        others = [name for name, split in of_file.items() if split is None]
        if names and others and splits.canonical(names[0]) != "train":
            raise DataError(
                f"{uri} holds files of the split {names[0]} and others, such as {others[0]}, which would be read together: "
                f"{splits.choose(uri, names)}"
            )
        return files
    if chosen == splits.ALL:
        return tuple(replace(file, split=splits.ALL) for file in files)
    meant = splits.meant(of_file.values(), chosen)
    found = tuple(file for file in files if of_file[file.relative] in meant)
    if found:
        return tuple(replace(file, split=chosen) for file in found)
    by_column = files[0].format == "parquet" and len(names) < 2 and any(map(parquet.has_split_column, files))
    if not by_column and (names or files[0].format == "parquet"):
        raise UsageError(f"{uri} has no files of a split {chosen!r}; it has {', '.join(names) or 'no splits'}")
    return tuple(replace(file, split=chosen) for file in files)


def index_file(file: SourceFile) -> pa.Table:
    """One row a source row (``INDEX_SCHEMA``), in the file's order, with the reason where it cannot be used.

    No picture is decoded: a picture that cannot be is found later (``manifest.reject``).
    """
    if file.format == "parquet":
        return parquet.index(file)
    if file.format == "webdataset":
        return webdataset.index(file)
    return image_folder.index([file])


def index_files(files: Sequence[SourceFile]) -> pa.Table:
    """The rows of all the files; a class folder of many pictures is indexed at once. DataError for ids that name nothing."""
    pictures = [file for file in files if file.format == "image"]
    tables = [index_file(file) for file in files if file.format != "image"]
    index = pa.concat_tables([*tables, image_folder.index(pictures)]).combine_chunks()
    check_ids(index)
    return index


def read_images(file: SourceFile, rows: Sequence[int]) -> list[bytes | None]:
    """The encoded pictures of the rows, in the order asked; None where the row has none."""
    if file.format == "parquet":
        return parquet.read(file, rows)
    if file.format == "webdataset":
        return webdataset.read(file, rows)
    return image_folder.read([file] * len(rows))


def _kind(relative: str) -> Format | None:
    name = posixpath.basename(relative)
    suffix = posixpath.splitext(name)[1].lower()
    if suffix in _PARQUET_SUFFIXES:
        return "parquet"
    if suffix == ".tar":
        return "webdataset"
    return "image" if image_folder.is_image(name) else None


def _format(uri: str, names: list[str]) -> Format:
    kinds: dict[str, Format | None] = {name: _kind(name) for name in names}
    counts = Counter[Format](kind for kind in kinds.values() if kind is not None)
    if len(counts) > 1:
        examples = {kind: next(name for name in names if kinds[name] == kind) for kind in counts}
        raise DataError(f"{uri} mixes formats {dict(counts)}, such as {examples}; give one format, {_FORMATS}")
    compressed = [name for name in names if name.lower().endswith(_COMPRESSED)]
    if compressed and counts.keys() != {"image"}:
        raise DataError(f"{compressed[0]} in {uri} is compressed and cannot be read by offset; decompress it to a .tar")
    unread = Counter(filter(None, map(unread_format, names)))
    if unread and not counts:
        kinds_of = ", ".join(f"{name}: {number}" for name, number in sorted(unread.items()))
        example = next(name for name in names if unread_format(name))
        raise DataError(
            f"{uri} holds pictures of formats that are not read here ({kinds_of}; such as {example}); "
            "convert them to JPEG or PNG"
        )
    if not counts:
        raise DataError(f"no known data in {uri}, only files such as {names[:3]}; it must be {_FORMATS}")
    (kind,) = counts
    if kind != "image":
        unknown = [
            name
            for name in names
            if kinds[name] is None
            and posixpath.splitext(name)[1].lower() not in _NOTES
            and posixpath.basename(name).lower() not in _NOTE_NAMES
        ]
        if unknown:
            raise DataError(f"{uri} holds {kind} files and others, such as {unknown[0]}; move those elsewhere")
    return kind
