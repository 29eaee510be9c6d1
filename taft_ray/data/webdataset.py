"""WebDataset tar: the members ``key.jpg`` and ``key.cls`` or ``key.json`` are one sample.

A key ends at the first dot of the member's file name, except where the names say that keys have dots. They say so by a
picture ``n0144.7.jpg`` with a label ``n0144.7.cls``, or by such a picture where there is no ``n0144.jpg``. The
samples are numbered in the order their first member appears. Pictures beside a sample's own follow behind them: counted, not read.
"""

# pyarrow.compute makes its functions when it is imported
# pyright: reportAttributeAccessIssue=false

import posixpath
import tarfile
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from taft_ray.data import split_columns, splits, tar_archive
from taft_ray.data.formats import READ_LATER, not_read, unread_suffix
from taft_ray.data.sample_fields import LABELS, Said, contradictions
from taft_ray.data.source_file import (
    BESIDE,
    HIDDEN,
    IMAGE_SUFFIXES,
    NO_IMAGE,
    NOT_AN_IMAGE,
    TWO_LABELS,
    TWO_SPLITS,
    WRITERS_FOLDER,
    SourceFile,
    one_file_index,
)
from taft_ray.errors import DataError


def index(file: SourceFile):
    """Reads the headers and the labels; the pictures are passed over."""
    samples: list[dict[str, Any]] = []
    beside: list[tuple[int, str]] = []  # size and reason of pictures that are no sample's own
    with tar_archive.opened(file) as handle:
        for row, suffix, member in _numbered(_shown(tar_archive.members(file, handle), beside)):
            if row == len(samples):
                samples.append(_sample(NO_IMAGE, folder=splits.folder_of(member.name)))
            sample = samples[row]
            if suffix in IMAGE_SUFFIXES:
                beside += [(size, BESIDE) for size in _add_image(sample, member, suffix in READ_LATER)]
            elif f".{suffix.rpartition('.')[2]}" in IMAGE_SUFFIXES:
                beside.append((member.size, BESIDE))
            elif sample["reason"] == NO_IMAGE and (unread := unread_suffix(suffix)):
                sample["reason"] = not_read(unread)
            elif suffix in LABELS:
                content = tar_archive.content(handle, member) if tar_archive.is_plain(member) else b""
                sample["said"].add(suffix, content, f"{member.name} in {file.uri}")
    samples += [_sample(reason, size) for size, reason in beside]
    told, by, clash = _splits_of(file, samples)
    differ = contradictions([sample["said"] for sample in samples])
    for sample, two_labels, two_splits in zip(samples, differ, clash, strict=True):
        if sample["reason"] is None:
            sample["reason"] = _why_not(sample["said"], two_labels, two_splits)
    whole = one_file_index(
        file,
        split=split_columns.with_source(told, by) if file.split is None else None,
        ids=[f"{file.relative}#{row}" if s["said"].id is None else s["said"].id for row, s in enumerate(samples)],
        labels=[None if two_labels else s["said"].label for s, two_labels in zip(samples, differ, strict=True)],
        owners=[sample["said"].owner for sample in samples],
        sizes=[sample["bytes"] for sample in samples],
        reasons=[sample["reason"] for sample in samples],
    )
    if file.split in (None, splits.ALL):
        return whole
    return whole.filter(split_columns.are_chosen(told, file.split, file.relative))


def _sample(reason: str, size: int = 0, folder: str | None = None) -> dict[str, Any]:
    """folder: the split that it says, if it does."""
    return {"said": Said(), "bytes": size, "reason": reason, "folder": folder}


def _why_not(said: Said, two_labels: bool, two_splits: bool) -> str | None:
    if two_labels:
        return TWO_LABELS
    if two_splits:
        return TWO_SPLITS
    return said.reason if said.label is None else None


def _splits_of(file: SourceFile, samples: Sequence[dict[str, Any]]) -> tuple[pa.Array, pa.Array, list[bool]]:
    """The split of each sample, the field that says it (empty for a folder), and where both say different ones."""
    folders = pa.array([sample["folder"] for sample in samples], pa.string())
    names = dict.fromkeys(name for sample in samples for name in sample["said"].splits)
    columns = {name: pa.array([s["said"].splits.get(name) for s in samples], pa.string()) for name in names}
    told = None if file.split == splits.ALL else split_columns.told(columns, file.split, file.uri)
    if told is None:
        return folders, pa.repeat("", len(samples)), [False] * len(samples)
    by = pc.if_else(pc.is_valid(told.splits), told.by, "")
    clash = [splits.contradict(*pair) for pair in zip(folders.to_pylist(), told.splits.to_pylist(), strict=True)]
    return pc.coalesce(told.splits, folders), by, clash


def read(file: SourceFile, rows: Sequence[int]) -> list[bytes | None]:
    """The picture of each row, in the order asked: one pass over the headers, and only the wanted contents."""
    images: dict[int, bytes | None] = dict.fromkeys(rows)
    missing = set(images)
    last = -1
    with tar_archive.opened(file) as handle:
        for row, suffix, member in _numbered(_shown(tar_archive.members(file, handle))):
            last = max(last, row)
            if row in missing and suffix in IMAGE_SUFFIXES and tar_archive.is_plain(member):
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

    def part_of(self, labelled: Collection[str]) -> tuple[str, str]:
        """The key and suffix where keys have dots: those of a labelled sample, such as its mask, or its own."""
        at = self.long_key.rfind(".")
        while self.long_key not in labelled and at > len(self.key):
            if self.long_key[:at] in labelled:
                return self.long_key[:at], self.long_key[at:].lower() + self.last_suffix
            at = self.long_key.rfind(".", 0, at)
        return self.long_key, self.last_suffix

    @property
    def is_picture(self) -> bool:
        return self.last_suffix in IMAGE_SUFFIXES or unread_suffix(self.last_suffix) is not None

    @property
    def is_dotted(self) -> bool:
        """Whether it would be a picture or label of another key, if keys had dots."""
        return self.key != self.long_key and (self.is_picture or self.last_suffix in LABELS)


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
    coming = map(_Named.of, members)
    for named in coming:
        if named.is_dotted:
            rest = [named, *coming]
            dotted, labelled = _dotted_keys(rest, numbering)
            for late in rest:
                key, suffix = late.key, late.suffix
                if late.is_dotted and late.key in dotted:
                    key, suffix = late.part_of(labelled)
                yield numbering.row(key, suffix), suffix, late.member
            return
        yield numbering.row(named.key, named.suffix), named.suffix, named.member


def _dotted_keys(rest: Sequence[_Named], numbering: _Numbering) -> tuple[set[str], set[str]]:
    """The keys at the first dot behind which whole samples lie, and the longer keys that have labels."""
    with_picture = {named.key for named in rest if named.suffix in IMAGE_SUFFIXES}
    labelled = {named.long_key for named in rest if named.is_dotted and named.last_suffix in LABELS}
    dotted = {
        named.key
        for named in rest
        if named.is_dotted
        and named.is_picture
        and (named.long_key in labelled or not (named.key in with_picture or numbering.has_picture(named.key)))
    }
    return dotted, labelled


def _shown(
    members: Iterable[tarfile.TarInfo], hidden: list[tuple[int, str]] | None = None
) -> Iterator[tarfile.TarInfo]:
    """The members that may be of a sample; the hidden pictures among the others are added to ``hidden``."""
    for member in members:
        folder, name = posixpath.split(member.name)
        if member.isdir():
            continue
        if not name.startswith(".") and "__MACOSX" not in folder:
            yield member
        elif hidden is not None and f".{name.rpartition('.')[2].lower()}" in IMAGE_SUFFIXES:
            hidden.append((member.size, HIDDEN))


def _add_image(sample: dict[str, Any], member: tarfile.TarInfo, gives_way: bool) -> list[int]:
    """Takes the picture for the sample's own; the sizes of those that stay beside it: the first one counts."""
    if sample["reason"] is None and (gives_way or not sample.get("gives_way")):
        return [member.size]
    beside = [sample["bytes"]] if sample["reason"] is None else []
    folders = member.name.removeprefix("./").split("/")[:-1]
    if not tar_archive.is_plain(member):
        sample["reason"] = NOT_AN_IMAGE  # a link to another member, or a file with holes
    elif any(folder.startswith(("_", ".")) for folder in folders):
        sample["reason"] = WRITERS_FOLDER
    else:
        sample |= {"bytes": member.size, "reason": None, "gives_way": gives_way}
    return beside
