"""Answers on the rows of the data: `samples`, and those that were rejected."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from taft_ray.answers.answer import Answer
from taft_ray.answers.rows import HasRows
from taft_ray.answers.text import columns, paragraphs
from taft_ray.counting import plural

_SAMPLES = 20  # that a person is shown


@dataclass(frozen=True)
class Sample(Answer):
    """A sample in a shard. id: what a forget takes; None where the data that has it could not be read."""

    id: str | None
    label: str
    shard: int
    file: str
    row: int


@dataclass(frozen=True)
class Samples(Answer, HasRows):
    """Every sample in the shards of a run. without_id: how many ids are not known. why: what was in the way."""

    ROWS: ClassVar[tuple[str, ...]] = ("samples",)

    run: str
    samples: tuple[Sample, ...]
    without_id: int
    why: str | None

    def __str__(self) -> str:
        rows = [[one.id, one.label, one.shard, one.file, one.row] for one in self.samples[:_SAMPLES]]
        left = len(self.samples) - len(rows)
        missing = plural(self.without_id, "id is", "ids are")
        return paragraphs(
            columns(["id", "class", "shard", "file", "row"], rows, (2, 4)) if rows else "No sample is in a shard.",
            f"and {plural(left, 'sample')} more; --output FILE.csv has all" if left else None,
            f"{missing} not known: {self.why}" if self.without_id else None,
        )


@dataclass(frozen=True)
class RejectedRow(Answer):
    """A row of the data that was not taken."""

    file: str
    row: int
    reason: str


@dataclass(frozen=True)
class RejectedRows(Answer, HasRows):
    """Every row that was not taken. listed_in: the object that has the list, None where no row was read in yet."""

    ROWS: ClassVar[tuple[str, ...]] = ("rejected_rows",)

    run: str
    rejected: int
    reasons: Mapping[str, int]
    rejected_rows: tuple[RejectedRow, ...]
    listed_in: str | None

    def __str__(self) -> str:
        if not self.rejected:
            return "No row of the data was rejected."
        reasons = ", ".join(f"{reason} ({count:,})" for reason, count in self.reasons.items())
        rows = [[one.file, one.row, one.reason] for one in self.rejected_rows]
        where = f"The list: {self.listed_in}" if self.listed_in else None
        return paragraphs(
            f"{plural(self.rejected, 'row was', 'rows were')} rejected: {reasons}.",
            columns(["file", "row", "reason"], rows, (1,)) if rows else None,
            where,
        )
