"""The common part of the layouts: a root's listing, its text and MATLAB lists, and the checks on what they say."""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from taft_ray.counting import are, plural
from taft_ray.data import access
from taft_ray.data.datasets.named import Named
from taft_ray.data.source_file import Source, SourceFile
from taft_ray.data.text import decode_text
from taft_ray.errors import DataError, UsageError

_SHOWN = 3


@dataclass(frozen=True)
class Listed:
    """A picture that a list of the data set names: its path relative to the root, and its class."""

    relative: str
    label: str


class Root:
    """The unpacked data set: what files there are, and the contents of its lists."""

    def __init__(self, layout: Layout, place: str) -> None:
        self.layout, self.place = layout, place
        _, self.files = access.list_files(place)

    def need(self, *relatives: str) -> None:
        """DataError naming the files that are missing."""
        missing = [relative for relative in relatives if relative not in self.files]
        if missing:
            raise DataError(
                f"{self.place} is not {self.layout.title}: {', '.join(missing)} is missing; expected the folder that holds "
                f"{self.layout.holds}"
            )

    def lines(self, relative: str) -> list[str]:
        """The lines of a text file that are not empty."""
        content = self._read(relative)
        try:
            text = decode_text(content)
        except ValueError as error:
            raise DataError(f"{relative} in {self.place} is not text: {error}; unpack the data set again") from error
        return [line.strip() for line in text.split("\n") if line.strip()]

    def fields(self, relative: str, count: int) -> Iterator[list[str]]:
        """Each line in ``count`` fields apart by spaces; the last one may hold spaces itself."""
        for number, line in enumerate(self.lines(relative), start=1):
            parts = line.split(maxsplit=count - 1)
            if len(parts) != count:
                raise DataError(f"line {number} of {relative} in {self.place}: expected {count} fields, got {line!r}")
            yield parts

    def matlab(self, relative: str, *names: str) -> list[Any]:
        """The variables of a MATLAB file."""
        from scipy.io import loadmat  # two of the layouts need it, and it takes long to import

        content = self._read(relative)
        try:
            found = loadmat(io.BytesIO(content), squeeze_me=True, struct_as_record=True)
        except Exception as error:  # scipy raises nearly anything on damaged bytes
            raise DataError(
                f"{relative} in {self.place} is not a MATLAB file that can be read: {error}; unpack the data set again"
            ) from error
        missing = [name for name in names if name not in found]
        if missing:
            raise DataError(f"{relative} in {self.place} has no variable {', '.join(missing)}; is it another file?")
        return [found[name] for name in names]

    def _read(self, relative: str) -> bytes:
        self.need(relative)
        uri = self.files[relative][0]
        with access.reading(uri), access.open_file(uri) as handle:
            return handle.read()


class Layout(ABC):
    """A published data set: its name, splits (the first is the default), and where its lists are."""

    name: str
    title: str
    holds: str  # what the folder to give holds
    splits: tuple[str, ...]

    @abstractmethod
    def classes(self, root: Root) -> Sequence[str]:
        """All classes in order, whatever the split."""

    @abstractmethod
    def listed(self, root: Root, split: str) -> Iterable[Listed]:
        """The pictures of a split; DataError where the lists contradict themselves."""

    def open(self, named: Named) -> Source:
        """The data set as a source; UsageError for an unknown split, DataError for one that is not whole."""
        split = self.splits[0] if named.split is None else named.split
        if split not in self.splits:
            raise UsageError(f"{self.title} has no split {split!r}; expected ?split={' or '.join(self.splits)}")
        root = Root(self, named.place)
        classes = tuple(self.classes(root))
        listed = sorted(self.listed(root, split), key=lambda picture: picture.relative)
        self._check(root, split, classes, listed)
        files = tuple(
            SourceFile(
                uri=root.files[picture.relative][0],
                relative=picture.relative,
                format="image",
                size=root.files[picture.relative][1],
                label=picture.label,
            )
            for picture in listed
        )
        return Source(str(named), "image", files, classes)

    def _check(self, root: Root, split: str, classes: Sequence[str], listed: Sequence[Listed]) -> None:
        where = f"split {split!r} of {self.title} in {root.place}"
        absent = [picture.relative for picture in listed if picture.relative not in root.files]
        if absent:
            raise DataError(
                f"{where} names {len(absent)} of {plural(len(listed), 'picture')} that {are(len(absent))} not there, "
                f"such as {_some(absent)}; unpack the data set again"
            )
        twice = [after.relative for before, after in pairwise(listed) if before.relative == after.relative]
        if twice:
            raise DataError(f"{where} names {plural(len(twice), 'picture')} twice, such as {_some(twice)}")
        if len(set(classes)) != len(classes):
            raise DataError(f"the class names of {self.title} in {root.place} are not different: {list(classes)}")
        found = {picture.label for picture in listed}
        unknown, empty = sorted(found - set(classes)), [name for name in classes if name not in found]
        if unknown:
            raise DataError(f"{where} has classes that are not among the {len(classes)} known: {_some(unknown)}")
        if empty:
            raise DataError(f"{where} has no picture of {len(empty)} of {len(classes)} classes, such as {_some(empty)}")


def _some(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:_SHOWN])) + ("" if len(names) <= _SHOWN else " …")
