"""The answer of `report` for several runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from taft_ray.answers.answer import Answer
from taft_ray.answers.rows import HasRows
from taft_ray.answers.text import columns


@dataclass(frozen=True)
class ComparedRun(Answer):
    """One of several runs. Numbers are as in its report; None where nothing was measured.

    name: as much of the address as tells the runs apart. requests: finished forgets. accuracy_margin: 95 %, in points.

    training_seconds: wall clock. work_seconds: the prefix pass and every fit, refits too.
    """

    name: str
    uri: str
    composed: str | None
    samples: int | None
    requests: int
    accuracy: float | None
    accuracy_margin: float | None
    accuracy_monolith: float | None
    forgotten_samples: float | None
    forget_seconds_median: float | None
    training_seconds: float | None
    work_seconds: float | None
    speedup_retrain_median: float | None


@dataclass(frozen=True)
class Compared(Answer, HasRows):
    """Runs side by side. page, json: where the comparison lies. notes: why numbers may not be comparable."""

    ROWS: ClassVar[tuple[str, ...]] = ("runs",)

    page: str
    json: str
    runs: tuple[ComparedRun, ...]
    notes: tuple[str, ...]

    def __str__(self) -> str:
        head = ["run", "accuracy", "samples forgotten", "per forget (median)", "training", "work"]
        rows = [
            [
                one.name,
                "not measured" if one.accuracy is None else f"{one.accuracy:.1%}",
                None if one.forgotten_samples is None else f"{one.forgotten_samples:,.0f}",
                *(
                    None if seconds is None else f"{seconds:,.1f} s"
                    for seconds in (one.forget_seconds_median, one.training_seconds, one.work_seconds)
                ),
            ]
            for one in self.runs
        ]
        told = [columns(head, rows, (1, 2, 3, 4, 5)), f"page: {self.page}", f"every number: {self.json}"]
        return "\n\n".join([told[0], "\n".join([*told[1:], *(f"note: {note}" for note in self.notes)])])
