"""Serving as the ledger has it: which servings of a run there are, and which models they no longer answer with."""

from __future__ import annotations

from dataclasses import dataclass, field

from taft_ray.jsonable import optional
from taft_ray.plans.fact import Fact

DRIFT = 1.05  # how much slower than another a clock may run, in the time that a lease is waited out


@dataclass(frozen=True)
class Served(Fact):
    """Replicas may answer with models of this run. modes: their compositions. Times in seconds.

    lease: a replica answers no longer than that after it read the ledger's head.

    drain: an answer that is under way is handed over within that, or never.

    ended: no replica of this serving may answer any more.

    overrode: the release gate that held a model back, where the serving began all the same.
    """

    KIND = "served"
    serving: str
    lease: float
    drain: float
    modes: tuple[str, ...]
    replicas: int = 1
    ended: bool = optional(False)
    overrode: str | None = optional()

    @property
    def wait(self) -> float:
        """The longest time that a lease given before now may still hold, by any clock."""
        return self.lease * DRIFT


@dataclass(frozen=True)
class Withdrawn(Fact):
    """A model that was served before a request is answered with no more. digest: of the composed model.

    number: of the ledger entry that every replica had read, or without which its lease ran out. acknowledged, lapsed: names of
    replicas. Those that lapsed did not say that they had changed models, and their lease has ended.

    waited: seconds from when that entry was seen until this one, the drain among them.
    """

    KIND = "withdrawn"
    request: str
    serving: str
    digest: str
    number: int
    acknowledged: tuple[str, ...]
    lapsed: tuple[str, ...]
    lease: float
    drain: float
    waited: float


@dataclass(frozen=True)
class ServedModelState:
    """A model that a serving may have answered with, by the ledger. mode: None of one that the ledger names as withdrawn alone.

    since: when the ledger first had it while the run was served (ISO 8601).
    """

    mode: str | None
    since: str | None


@dataclass
class ServingState:
    """A serving, and what the ledger says of it by now. number: of the entry by which it began. Times are ISO 8601.

    models: those that it may have answered with, by digest. withdrawn: each with its time.
    """

    fact: Served
    number: int
    began: str
    ended: str | None = None
    models: dict[str, ServedModelState] = field(default_factory=dict)
    withdrawn: list[tuple[str, Withdrawn]] = field(default_factory=list)

    def note(self, digest: str, mode: str | None, since: str | None) -> None:
        """Know of a model, where it is not known yet."""
        self.models.setdefault(digest, ServedModelState(mode, since))
