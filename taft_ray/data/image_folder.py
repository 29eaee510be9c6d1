"""A folder with a folder a class: every file is one sample, its class is the first folder of its path, or what a list says."""

import posixpath
from collections.abc import Sequence

from taft_ray.data import access
from taft_ray.data.source_file import IMAGE_SUFFIXES, NO_LABEL, NOT_AN_IMAGE, SourceFile, index_table
from taft_ray.errors import DataError

_SPLITS = frozenset({"train", "training", "val", "valid", "validation", "test", "testing"})


def is_image(relative: str) -> bool:
    return posixpath.splitext(relative)[1].lower() in IMAGE_SUFFIXES


def classes_of(uri: str, files: Sequence[SourceFile]) -> tuple[str, ...]:
    """The class folders, sorted by name; pictures without any class folder are refused."""
    classes = sorted({file.relative.split("/", 1)[0] for file in files if "/" in file.relative})
    if not any("/" in file.relative and is_image(file.relative) for file in files):
        raise DataError(
            f"the pictures in {uri} are in no class folder (such as {files[0].relative}): "
            f"put each into a folder with the name of its class"
        )
    if set(map(str.lower, classes)) <= _SPLITS and all(file.relative.count("/") != 1 for file in files):
        raise DataError(f"{uri} holds the splits {classes}, not classes; give one of them, such as {uri}/{classes[0]}")
    return tuple(classes)


def index(files: Sequence[SourceFile]):
    """One row a file, in the order given; a file that is no picture is a rejected row, not a lost one."""
    names = [file.relative for file in files]
    labels = [file.label or (file.relative.split("/", 1)[0] if "/" in file.relative else None) for file in files]
    reasons = [
        NOT_AN_IMAGE if not is_image(name) else (NO_LABEL if label is None else None)
        for name, label in zip(names, labels, strict=True)
    ]
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
