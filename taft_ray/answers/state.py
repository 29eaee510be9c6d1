"""Answers on where a run stands: `status`, `train`, `repair`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from taft_ray.answers.answer import Answer
from taft_ray.answers.rows import HasRows
from taft_ray.jsonable import optional


@dataclass(frozen=True)
class ShardStatus(Answer):
    """A shard. state: pending, trained, dropped, empty or quarantined. delta: its digest while it is in the model."""

    shard: int
    generation: int
    samples: int
    state: str
    delta: str | None


@dataclass(frozen=True)
class RequestStatus(Answer):
    """A request to forget. deadline, runs_at: unix seconds, where it was gathered with others."""

    request: str
    mode: str
    samples: int
    done: bool
    deadline: float | None
    runs_at: float | None


@dataclass(frozen=True)
class DamagedObject(Answer):
    """An object in storage that is gone, or has not the bytes that were recorded."""

    key: str
    problem: str


@dataclass(frozen=True)
class Quarantined(Answer):
    """A shard that left the model because of damage; `taft-ray repair` makes it again."""

    shard: int
    since: str
    objects: tuple[DamagedObject, ...]
    samples_without_tokens: int


@dataclass(frozen=True)
class Composed(Answer):
    """A composed model and its snapshot. seconds: 0 where the snapshot was there already."""

    mode: str
    digest: str
    key: str
    seconds: float
    shards: int


@dataclass(frozen=True)
class Status(Answer, HasRows):
    """Where a run stands. ok: no shard is in quarantine, and nothing damaged is in the way.

    composed: the digest of the composed model, None while no shard is in it. data: counts of the rows as they were read in.
    to_do: what somebody has to run, a sentence each.
    """

    ROWS: ClassVar[tuple[str, ...]] = ("shards", "requests", "quarantined")

    run: str
    ok: bool
    composed: str | None
    shards: tuple[ShardStatus, ...]
    requests: tuple[RequestStatus, ...]
    monolith: Mapping[str, Any] | None
    data: Mapping[str, Any] | None
    samples: int
    to_do: tuple[str, ...]
    quarantined: tuple[Quarantined, ...]
    damaged: str | None


@dataclass(frozen=True)
class Trained(Status):
    """`Status` after a training. seconds: of the whole call. notes: what a person should know of the data and weights."""

    compose: Composed | None = None
    seconds: float = 0.0
    notes: tuple[str, ...] | None = optional()


@dataclass(frozen=True)
class Repaired(Status):
    """`Status` after a repair. repaired: shards made again. not_repaired: why the others were not, a sentence each."""

    repaired: tuple[int, ...] = ()
    not_repaired: tuple[str, ...] = ()


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

    def _whole(self) -> frozenset[str]:
        return frozenset({"rejected_rows"})
