"""Open a data set of any format; index its rows and read its pictures, one file at a time."""

import posixpath
from collections import Counter
from collections.abc import Sequence

import pyarrow as pa

from taft_ray.data import access, datasets, image_folder, parquet, webdataset
from taft_ray.data.source_file import Format, Source, SourceFile
from taft_ray.errors import DataError

_FORMATS = "a folder with a folder a class, Parquet (image, label) or WebDataset .tar"
_PARQUET_SUFFIXES = frozenset({".parquet", ".pq"})
# what people put beside data; anything else beside Parquet or tar files may be data that would be lost
_NOTES = frozenset({"", ".md", ".txt", ".rst", ".json", ".jsonl", ".yaml", ".yml", ".csv", ".idx", ".sha256", ".crc"})
_COMPRESSED = (".tar.gz", ".tgz", ".tar.zst", ".tar.bz2", ".tar.xz", ".zip")


def open_source(uri: str) -> Source:
    """List the data and tell its format; only a footer or two, or a data set's own lists, are read, no picture.

    uri: a path or URI of data in a known format, or a published data set by name (`datasets`).

    Guarantees: every visible file of a class folder, and every Parquet or tar file, is in ``files`` exactly once;
    files are sorted by relative path; the same data gives the same ``relative`` wherever it lies.
    """
    if datasets.is_named(uri):
        return datasets.open_dataset(uri)
    _, listing = access.list_files(uri)
    visible = {name: found for name, found in listing.items() if not _is_hidden(name)}
    if not visible:
        raise DataError(f"there are no files in {uri}; it must be {_FORMATS}")
    kind = _format(uri, list(visible))
    files = tuple(
        SourceFile(uri=where, relative=name, format=kind, size=size)
        for name, (where, size) in sorted(visible.items())
        if kind == "image" or _kind(name) == kind
    )
    if kind == "image":
        return Source(uri, kind, files, image_folder.classes_of(uri, files))
    return Source(uri, kind, files, parquet.classes_of(files[0]) if kind == "parquet" else None)


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
    """The rows of all the files; a class folder of many pictures is indexed at once."""
    pictures = [file for file in files if file.format == "image"]
    tables = [index_file(file) for file in files if file.format != "image"]
    return pa.concat_tables([*tables, image_folder.index(pictures)]).combine_chunks()


def read_images(file: SourceFile, rows: Sequence[int]) -> list[bytes | None]:
    """The encoded pictures of the rows, in the order asked; None where the row has none."""
    if file.format == "parquet":
        return parquet.read(file, rows)
    if file.format == "webdataset":
        return webdataset.read(file, rows)
    return image_folder.read([file] * len(rows))


def _is_hidden(relative: str) -> bool:
    parts = relative.split("/")
    return any(part.startswith(".") or part == "__MACOSX" for part in parts) or parts[-1] in (
        "Thumbs.db",
        "desktop.ini",
    )


def _kind(relative: str) -> Format | None:
    name = posixpath.basename(relative)
    suffix = posixpath.splitext(name)[1].lower()
    if suffix in _PARQUET_SUFFIXES:
        return None if name.startswith("_") else "parquet"  # _metadata.parquet and the like describe, they hold no rows
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
    if not counts:
        raise DataError(f"no known data in {uri}, only files such as {names[:3]}; it must be {_FORMATS}")
    (kind,) = counts
    if kind != "image":
        unknown = [
            name
            for name in names
            if kinds[name] is None
            and not posixpath.basename(name).startswith("_")
            and posixpath.splitext(name)[1].lower() not in _NOTES
        ]
        if unknown:
            raise DataError(f"{uri} holds {kind} files and others, such as {unknown[0]}; move those elsewhere")
    return kind
