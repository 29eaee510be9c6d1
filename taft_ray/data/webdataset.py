"""WebDataset tar: the members ``key.jpg`` and ``key.cls`` or ``key.json`` are one sample.

A key ends at the first dot of the member's file name. The samples are numbered in the order their first member appears.
"""

import contextlib
import json
import posixpath
import tarfile
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

from taft_ray.data import access
from taft_ray.data.source_file import IMAGE_SUFFIXES, NO_IMAGE, NO_LABEL, NOT_AN_IMAGE, SourceFile, one_file_index
from taft_ray.errors import DataError

_BLOCK = 512


def index(file: SourceFile):
    """Reads the headers and the labels; the pictures are passed over."""
    samples: list[dict[str, Any]] = []
    with _opened(file) as (tar, handle):
        for row, suffix, member in _members(file, tar, handle):
            if row == len(samples):
                samples.append({"label": None, "id": None, "owner": None, "bytes": 0, "reason": NO_IMAGE})
            sample = samples[row]
            if suffix in IMAGE_SUFFIXES:
                _add_image(sample, member)
            elif suffix in (".cls", ".json"):
                _add_label(sample, suffix, _content(handle, member) if member.isreg() else b"")
    for number, sample in enumerate(samples):
        if sample["reason"] is None and sample["label"] is None:
            sample["reason"] = sample.get("label_reason", NO_LABEL)
        if sample["id"] is None:
            sample["id"] = f"{file.relative}#{number}"
    return one_file_index(
        file,
        ids=[sample["id"] for sample in samples],
        labels=[sample["label"] for sample in samples],
        owners=[sample["owner"] for sample in samples],
        sizes=[sample["bytes"] for sample in samples],
        reasons=[sample["reason"] for sample in samples],
    )


def read(file: SourceFile, rows: Sequence[int]) -> list[bytes | None]:
    """The picture of each row, in the order asked: one pass over the headers, and only the wanted contents."""
    images: dict[int, bytes | None] = dict.fromkeys(rows)
    missing = set(images)
    last = -1
    with _opened(file) as (tar, handle):
        for row, suffix, member in _members(file, tar, handle):
            last = max(last, row)
            if row in missing and suffix in IMAGE_SUFFIXES and member.isreg():
                images[row] = _content(handle, member)
                missing.discard(row)
                if not missing:
                    break
    if missing and max(missing) > last:
        raise DataError(
            f"{file.uri} has {last + 1} samples, row {max(missing)} was asked for: it changed after it was indexed"
        )
    return [images[row] for row in rows]


@contextlib.contextmanager
def _opened(file: SourceFile) -> Iterator[tuple[tarfile.TarFile, BinaryIO]]:
    with access.reading(file.uri), access.open_file(file.uri) as handle:
        try:
            with tarfile.open(fileobj=handle, mode="r:") as tar:
                yield tar, handle
        except tarfile.TarError as error:
            raise DataError(
                f"{file.uri} is not a whole, uncompressed tar: {error}; write it again, or decompress it"
            ) from error


def _members(file: SourceFile, tar: tarfile.TarFile, handle: BinaryIO) -> Iterator[tuple[int, str, tarfile.TarInfo]]:
    """(row, suffix, member) of everything that is part of a sample.

    A member a sample already has begins another sample, so that of two samples with one key none is lost.
    """
    open_samples: dict[str, tuple[int, set[str]]] = {}
    rows = 0
    for member in tar:
        folder, name = posixpath.split(member.name)
        if member.isdir() or name.startswith(".") or "__MACOSX" in folder:
            continue
        stem, dot, rest = name.partition(".")
        key, suffix = posixpath.join(folder, stem), (dot + rest).lower()
        if key not in open_samples or suffix in open_samples[key][1]:
            open_samples[key] = (rows, set())
            rows += 1
        row, suffixes = open_samples[key]
        suffixes.add(suffix)
        yield row, suffix, member
    # tarfile takes a damaged header for the end: only the block of zeros says that nothing was lost
    handle.seek(tar.offset)
    end = handle.read(_BLOCK)
    if len(end) < _BLOCK or any(end):
        raise DataError(f"{file.uri} is cut off or damaged at byte {tar.offset} of {file.size}; write it again")


def _content(handle: BinaryIO, member: tarfile.TarInfo) -> bytes:
    handle.seek(member.offset_data)
    content = handle.read(member.size)
    if len(content) != member.size:
        raise tarfile.ReadError(f"member {member.name} ends after {len(content)} of {member.size} bytes")
    return content


def _add_image(sample: dict[str, Any], member: tarfile.TarInfo) -> None:
    if sample["reason"] is None:
        return  # a second picture of the sample: the first one counts
    if member.isreg():
        sample["bytes"], sample["reason"] = member.size, None
    else:
        sample["reason"] = NOT_AN_IMAGE  # a link to another member


def _add_label(sample: dict[str, Any], suffix: str, content: bytes) -> None:
    try:
        text = content.decode().strip()
        if suffix == ".cls":
            sample["label"] = text or sample["label"]
            return
        fields = json.loads(text)
        if not isinstance(fields, dict):
            raise ValueError("not an object")
    except (ValueError, RecursionError):
        sample["label_reason"] = f"unreadable {suffix}"
        return
    for name in ("label", "owner", "id"):
        value = fields.get(name)
        if sample[name] is None and isinstance(value, str | int) and not isinstance(value, bool) and value != "":
            sample[name] = str(value)
