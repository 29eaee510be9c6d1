"""A folder with a folder per class. Every file is one sample; its class is the first folder of its path, or what a list says.

The folder of a split is no class. A folder without pictures is none either.
"""

import posixpath
from collections.abc import Sequence

from taft_ray.data import access
from taft_ray.data.formats import not_read, unread_format
from taft_ray.data.source_file import IMAGE_SUFFIXES, NO_LABEL, NOT_AN_IMAGE, WRITERS_FOLDER, SourceFile, index_table
from taft_ray.errors import DataError


def is_image(relative: str) -> bool:
    return posixpath.splitext(relative)[1].lower() in IMAGE_SUFFIXES


def in_writers_folder(relative: str) -> bool:
    """Whether a folder of the path begins with an underscore: unfinished output, logs, annotations; not a class."""
    return any(part.startswith("_") for part in relative.split("/")[:-1])


def classes_of(uri: str, files: Sequence[SourceFile]) -> tuple[str, ...]:
    """The classes with pictures, sorted by name; pictures without any class folder are refused."""
    labels = {_label(file) for file in files if is_image(file.relative) and not in_writers_folder(file.relative)}
    classes = sorted(label for label in labels if label is not None)
    if not classes:
        example = next((file for file in files if is_image(file.relative)), files[0])
        raise DataError(
            f"the pictures in {uri} are in no class folder (such as {example.relative}): "
            f"put each into a folder with the name of its class"
        )
    return tuple(classes)


def wrapped(files: Sequence[SourceFile]) -> str | None:
    """The one folder that holds all pictures in folders of its own, which may be the data set; None where there is none."""
    paths = [file.relative.split("/") for file in files if is_image(file.relative)]
    tops = {parts[0] for parts in paths if len(parts) > 1}
    below = {parts[1] for parts in paths if len(parts) > 2}
    return tops.pop() if len(tops) == 1 and below else None


def _label(file: SourceFile) -> str | None:
    """The class; an empty one of a split's picture is none."""
    if file.label is not None:
        return file.label or None
    return file.relative.split("/", 1)[0] if "/" in file.relative else None


def index(files: Sequence[SourceFile]):
    """One row a file, in the order given; a file that is no picture is a rejected row, not a lost one."""
    names = [file.relative for file in files]
    labels = [_label(file) for file in files]
    reasons = [_reason(name, label) for name, label in zip(names, labels, strict=True)]
    return index_table(
        {
            "id": names,
            "relative": names,
            "row": [0] * len(files),
            "label": labels,
            "owner": [None] * len(files),
            "bytes": [file.size for file in files],
            "reason": reasons,
        }
    )


def _reason(relative: str, label: str | None) -> str | None:
    if not is_image(relative):
        unread = unread_format(relative)
        return NOT_AN_IMAGE if unread is None else not_read(unread)
    if in_writers_folder(relative):
        return WRITERS_FOLDER
    return NO_LABEL if label is None else None


def read(files: Sequence[SourceFile]) -> list[bytes | None]:
    """The bytes of each file, in the order given; None for one that is gone since it was listed.

    One call for many files: object stores answer them concurrently.
    """
    if not files:
        return []
    fs, _ = access.filesystem(files[0].uri)
    paths = [access.filesystem(file.uri)[1] for file in files]
    with access.reading(files[0].uri):
        # not fs.cat, which would take "photo [1].jpg" for a pattern
        whole = [None] * len(paths)
        found = fs.cat_ranges(paths, whole, whole, on_error="return")
    images: list[bytes | None] = []
    for file, image in zip(files, found, strict=True):
        if isinstance(image, FileNotFoundError):
            images.append(None)
        elif isinstance(image, Exception):
            with access.reading(file.uri):
                raise image
        else:
            images.append(image)
    return images
