"""WebDataset tar: the members ``key.jpg`` and ``key.cls`` or ``key.json`` are one sample.

A key ends at the first dot of the member's file name, except where the names say that keys have dots: a picture
``n0144.7.jpg`` with a label ``n0144.7.cls``, or one of a key that has no picture ``n0144.jpg`` of its own. The samples are
numbered in the order their first member appears. Pictures beside a sample's own follow behind them: counted, not read.
"""

import json
import posixpath
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from taft_ray.data import tar_archive
from taft_ray.data.formats import READ_LATER, not_read, unread_suffix
from taft_ray.data.ids import json_text
from taft_ray.data.source_file import (
    BELOW_ZERO,
    BESIDE,
    IMAGE_SUFFIXES,
    NO_IMAGE,
    NO_LABEL,
    NOT_AN_IMAGE,
    SourceFile,
    one_file_index,
)
from taft_ray.data.text import decode_text
from taft_ray.errors import DataError

_LABELS = (".cls", ".json")


def index(file: SourceFile):
    """Reads the headers and the labels; the pictures are passed over."""
    samples: list[dict[str, Any]] = []
    beside: list[int] = []  # sizes of pictures that are no sample's own
    with tar_archive.opened(file) as handle:
        for row, suffix, member in _numbered(tar_archive.members(file, handle)):
            if row == len(samples):
                samples.append({"label": None, "id": None, "owner": None, "bytes": 0, "reason": NO_IMAGE})
            sample = samples[row]
            if suffix in IMAGE_SUFFIXES:
                beside += _add_image(sample, member, suffix in READ_LATER)
            elif f".{suffix.rpartition('.')[2]}" in IMAGE_SUFFIXES:
                beside.append(member.size)
            elif sample["reason"] == NO_IMAGE and (unread := unread_suffix(suffix)):
                sample["reason"] = not_read(unread)
            elif suffix in _LABELS:
                content = tar_archive.content(handle, member) if member.isreg() else b""
                _add_label(sample, suffix, content, f"{member.name} in {file.uri}")
    for sample in samples:
        if sample["reason"] is None and sample["label"] is None:
            sample["reason"] = sample.get("label_reason", NO_LABEL)
    samples += [{"label": None, "id": None, "owner": None, "bytes": size, "reason": BESIDE} for size in beside]
    for number, sample in enumerate(samples):
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
    with tar_archive.opened(file) as handle:
        for row, suffix, member in _numbered(tar_archive.members(file, handle)):
            last = max(last, row)
            if row in missing and suffix in IMAGE_SUFFIXES and member.isreg():
                if suffix not in READ_LATER:
                    images[row] = tar_archive.content(handle, member)
                    missing.discard(row)
                elif images[row] is None:  # a picture that gives way to one of another format, should one come
                    images[row] = tar_archive.content(handle, member)
                if not missing:
                    break
    if missing and max(missing) > last:
        raise DataError(
            f"{file.uri} has {last + 1} samples, row {max(missing)} was asked for: it changed after it was indexed"
        )
    return [images[row] for row in rows]


@dataclass(frozen=True)
class _Named:
    """A member by its name: the key and suffix at the first dot, and those at the last one."""

    member: tarfile.TarInfo
    key: str
    suffix: str
    long_key: str
    last_suffix: str

    @classmethod
    def of(cls, member: tarfile.TarInfo) -> "_Named":
        folder, name = posixpath.split(member.name.removeprefix("./"))
        stem, dot, rest = name.partition(".")
        long_stem, last = posixpath.splitext(name)
        return cls(
            member,
            posixpath.join(folder, stem),
            (dot + rest).lower(),
            posixpath.join(folder, long_stem),
            last.lower(),
        )

    @property
    def is_picture(self) -> bool:
        return self.last_suffix in IMAGE_SUFFIXES or unread_suffix(self.last_suffix) is not None

    @property
    def is_dotted(self) -> bool:
        """Whether it would be a picture or label of another key, if keys had dots."""
        return self.key != self.long_key and (self.is_picture or self.last_suffix in _LABELS)


class _Numbering:
    """Rows by key. A member that a sample already has begins another sample, so that of two with one key none is lost."""

    def __init__(self) -> None:
        self._open: dict[str, tuple[int, set[str]]] = {}
        self._rows = 0

    def row(self, key: str, suffix: str) -> int:
        if key not in self._open or suffix in self._open[key][1]:
            self._open[key] = (self._rows, set())
            self._rows += 1
        row, suffixes = self._open[key]
        suffixes.add(suffix)
        return row

    def has_picture(self, key: str) -> bool:
        return key in self._open and not IMAGE_SUFFIXES.isdisjoint(self._open[key][1])


def _numbered(members: Iterable[tarfile.TarInfo]) -> Iterator[tuple[int, str, tarfile.TarInfo]]:
    """(row, suffix, member) of everything that is part of a sample.

    Streams as long as no name asks whether keys have dots; then the headers that are left are read first.
    """
    numbering = _Numbering()
    coming = (_Named.of(member) for member in members if not _is_passed_over(member))
    for named in coming:
        if named.is_dotted:
            rest = [named, *coming]
            dotted = _dotted_keys(rest, numbering)
            for late in rest:
                own = late.is_dotted and late.key in dotted
                key, suffix = (late.long_key, late.last_suffix) if own else (late.key, late.suffix)
                yield numbering.row(key, suffix), suffix, late.member
            return
        yield numbering.row(named.key, named.suffix), named.suffix, named.member


def _dotted_keys(rest: Sequence[_Named], numbering: _Numbering) -> set[str]:
    """The keys at the first dot behind which whole samples lie, each with a dot more in its key."""
    with_picture = {named.key for named in rest if named.suffix in IMAGE_SUFFIXES}
    labelled = {named.long_key for named in rest if named.is_dotted and named.last_suffix in _LABELS}
    return {
        named.key
        for named in rest
        if named.is_dotted
        and named.is_picture
        and (named.long_key in labelled or not (named.key in with_picture or numbering.has_picture(named.key)))
    }


def _is_passed_over(member: tarfile.TarInfo) -> bool:
    folder, name = posixpath.split(member.name)
    return member.isdir() or name.startswith(".") or "__MACOSX" in folder


def _add_image(sample: dict[str, Any], member: tarfile.TarInfo, gives_way: bool) -> list[int]:
    """Takes the picture for the sample's own; the sizes of those that stay beside it: the first one counts."""
    if sample["reason"] is None and (gives_way or not sample.get("gives_way")):
        return [member.size]
    beside = [sample["bytes"]] if sample["reason"] is None else []
    if member.isreg():
        sample |= {"bytes": member.size, "reason": None, "gives_way": gives_way}
    else:
        sample["reason"] = NOT_AN_IMAGE  # a link to another member
    return beside


def _add_label(sample: dict[str, Any], suffix: str, content: bytes, where: str) -> None:
    try:
        text = decode_text(content).strip()
        if suffix == ".cls":
            _set_label(sample, text)
            return
        fields = json.loads(text)
        if not isinstance(fields, dict):
            raise ValueError("not an object")
        label = fields.get("label")
        if sample["label"] is None and isinstance(label, str | int) and not isinstance(label, bool):
            _set_label(sample, str(label))
    except (ValueError, RecursionError):
        sample["label_reason"] = f"unreadable {suffix}"
        return
    for name in ("owner", "id"):
        if sample[name] is None:
            sample[name] = json_text(fields.get(name), name, where)
    sample["owner"] = sample["owner"] or None


def _set_label(sample: dict[str, Any], text: str) -> None:
    """The label, unless it is empty or a number below 0, which means that there is none."""
    if text[:1] == "-" and text[1:].isdecimal():
        sample["label_reason"] = BELOW_ZERO
    elif text:
        text.encode()  # UnicodeEncodeError, a ValueError, for half a surrogate pair of a JSON escape
        sample["label"] = text
