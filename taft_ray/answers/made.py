"""Answers of verbs that write or remove files: `export`, `report`, `gc`, `destroy`, `destroy-key`, `demo`; and `runs`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from taft_ray.answers.answer import Answer
from taft_ray.answers.rows import HasRows
from taft_ray.answers.state import Quarantined


@dataclass(frozen=True)
class Exported(Answer):
    """A model file that runs without taft_ray. size: pixels per side. mean, std: of the scaling of pictures in 0..1."""

    output: str
    bytes: int
    composed: str
    classes: tuple[str, ...]
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    shards: tuple[int, ...]
    version: str


@dataclass(frozen=True)
class Reported(Answer):
    """Where the report lies. derived: its numbers by name. not_measured: what no measurement was made for."""

    page: str
    json: str
    derived: Mapping[str, Any]
    not_measured: Any
    ok: bool
    quarantined: tuple[Quarantined, ...]
    damaged: tuple[str, ...]


@dataclass(frozen=True)
class Collected(Answer):
    """Objects that nothing referred to, and how many bytes they had."""

    removed: tuple[str, ...]
    bytes: int


@dataclass(frozen=True)
class KeyDestroyed(Answer):
    """The key of the id hashes is gone. beyond_reach: why older versions of it could not be removed."""

    destroyed: str
    older_versions: int
    beyond_reach: str | None


@dataclass(frozen=True)
class Destroyed(Answer):
    """A run that is gone. left: objects in its folder that are none of the run's, and stay.

    tombstones: where what was forgotten is kept, so that an older copy of the folder forgets it again; None: nowhere.
    """

    run: str
    removed: int
    older_versions: int
    left: tuple[str, ...]
    tombstones: str | None
    beyond_reach: str | None


@dataclass(frozen=True)
class Demonstrated(Answer):
    """The demo: accuracies, what the forgets took, and what `verify` found. run: the folder, which stays."""

    ok: bool
    shards: int
    accuracy: Mapping[str, float | None]
    forget: Mapping[str, Any]
    speedup: Mapping[str, Any]
    verify: Mapping[str, int]
    problems: tuple[str, ...]
    report: str
    run: str


@dataclass(frozen=True)
class RunSummary(Answer):
    """A run that was found. samples: in its shards. open_requests: forgets that are not finished.

    problem: why nothing more is known of it.
    """

    run: str
    model: str | None
    shards: int | None
    samples: int | None
    open_requests: int | None
    composed: str | None
    problem: str | None


@dataclass(frozen=True)
class Runs(Answer, HasRows):
    """The runs at a place; a sequence of them."""

    ROWS: ClassVar[tuple[str, ...]] = ("runs",)

    place: str
    runs: tuple[RunSummary, ...]

    def __iter__(self) -> Iterator[RunSummary]:
        return iter(self.runs)

    def __len__(self) -> int:
        return len(self.runs)

    def __getitem__(self, number: int) -> RunSummary:
        return self.runs[number]
