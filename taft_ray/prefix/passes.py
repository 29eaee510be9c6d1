"""The two passes over source data that want many workers; who runs them is handed in.

`orchestration.prefix_pass.RayPasses` runs them through Ray Data. Nothing else in this room knows Ray.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa

from taft_ray.data import SourceFile, Stripe, open_source, resolve_classes
from taft_ray.log import logger_of
from taft_ray.plans.spec import RunSpec

_log = logger_of(__name__)


class Passes(Protocol):
    """Runs functions of this room over a data set."""

    def index(self, files: Sequence[SourceFile]) -> pa.Table:
        """The rows of `data.index_files`, in the order of the files."""
        ...

    def parts(
        self, pieces: Sequence[Stripe], run: str, spec: RunSpec, classes: int, folders: str, workers: int
    ) -> Iterator[dict[str, Any]]:
        """The answers of `PartWriter` for every part of the stripes, in any order; its own errors are raised as they are."""
        ...


@dataclass(frozen=True, kw_only=True)
class Indexed:
    """A data set as it was understood: its files, a row per source row (`data.index_files`), its classes."""

    files: tuple[SourceFile, ...]
    rows: pa.Table
    classes: tuple[str, ...]
    seconds: float  # that this took


def index_source(passes: Passes, uri: str, given_classes: Sequence[str] | None) -> Indexed:
    """Read all of a data set but its pictures; DataError where it cannot be understood."""
    began = time.perf_counter()
    source = open_source(uri)
    for note in source.notes:
        _log.warning(note)
    rows = passes.index(source.files)
    classes = resolve_classes(source.classes, rows["label"].to_pylist(), given_classes, source.two_readings)
    return Indexed(files=source.files, rows=rows, classes=classes, seconds=time.perf_counter() - began)
