"""Files that left the house: exports and published statements, the notices of their recall, and when more may be published.

In a run with a release gate a model that is served is registered, too, before a replica gives its probabilities.

Names of owners are never in these facts, only their keyed hashes. A release names the model that it is of by the ledger's entry up
to which that model is made. So whether a later forget touches it is a function of the ledger.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from taft_ray.counting import plural
from taft_ray.errors import UsageError
from taft_ray.jsonable import JsonObject, optional
from taft_ray.plans.fact import Fact

EXPORT, STATEMENT = "export", "statement"
SERVED = "served"  # a model, by the probabilities of its answers: no file
WHATS = (EXPORT, STATEMENT, SERVED)

_DAY = 86400.0


@dataclass(frozen=True)
class Released(Fact):
    """A file that left the house. release: its name, which an export has in its ``taft_ray`` entry. digest: SHA-256 of the file.

    A served model has the composed model's digest here, and no bytes.

    rests_on, entry: number and digest of the newest ledger entry that the model knows of.

    composed: the model's digest. members: digest of the deltas or records in it. policy: of the run's settings then, if any.

    shards: those in the model. by_records: whether they are in it by their records, and not by their deltas.

    owners: hashes of the owners whose pictures alone it is of. samples: id hashes of these pictures.

    until: unix seconds, after which whoever has it keeps it no more. beside: digests of files that belong to it, by name.

    overrode: the gate that held it back, where it was published all the same.

    restored: from what was kept beside the run, in an older copy of the folder. Its model rests on a ledger that is gone.

    left: of a restored one, the forgets whose samples were out of that model.
    """

    KIND = "released"
    release: str
    what: str
    digest: str
    bytes: int
    rests_on: int
    entry: str
    composed: str | None
    mode: str | None
    members: str
    shards: tuple[int, ...] = ()
    by_records: bool = optional(False)
    policy: str | None = optional()
    owners: tuple[str, ...] = optional(())
    samples: tuple[str, ...] = optional(())
    to: str | None = optional()
    contact: str | None = optional()
    until: float | None = optional()
    beside: Mapping[str, str] = optional(dict)
    overrode: str | None = optional()
    restored: bool = optional(False)
    left: tuple[str, ...] = optional(())

    @property
    def is_model(self) -> bool:
        """Whether it is a model, and not a statement about one."""
        return self.what != STATEMENT

    @property
    def is_file(self) -> bool:
        """Whether somebody has it as a file, which can be recalled. A model that was served is withdrawn instead."""
        return self.what != SERVED

    @property
    def line(self) -> Any:
        """Releases of one line differ in time alone: of one composition, and of the same owners."""
        return self.mode, self.owners, bool(self.samples)


@dataclass(frozen=True)
class RecallNotified(Fact):
    """A recall was told, and taken: requests, the forgets that it named. where: scheme and host. url: SHA-256 of the whole URL.

    status, answer: of the HTTP answer, its text cut short. key: the Idempotency-Key. public_key: of the signature.
    """

    KIND = "recall-notified"
    release: str
    requests: tuple[str, ...]
    where: str
    url: str
    status: int
    answer: str
    key: str
    public_key: str


@dataclass(frozen=True)
class RecallTold(Fact):
    """A recall was told by other means than a notice: requests, the forgets that were named. by: who told it, and how.

    When it was noted is the time of its entry.
    """

    KIND = "recall-told"
    release: str
    requests: tuple[str, ...]
    by: str


@dataclass(frozen=True)
class Gate(JsonObject):
    """A newer model is published once so much has come since the last release: forgets, seconds, or ε of fits; one of the three.

    Raises UsageError for an amount that is none.
    """

    forgets: int | None = optional()
    seconds: float | None = optional()
    epsilon: float | None = optional()

    def __post_init__(self) -> None:
        given = [one for one in (self.forgets, self.seconds, self.epsilon) if one is not None]
        if len(given) != 1 or not 0 < given[0] < float("inf"):
            raise UsageError(f"expected one amount above 0, got {given}; {EXPECTED}")

    def __str__(self) -> str:
        if self.forgets is not None:
            return plural(self.forgets, "forget")
        if self.seconds is not None:
            return f"{self.seconds / _DAY:g} day{'' if self.seconds == _DAY else 's'}"
        return f"ε = {self.epsilon:g}"


EXPECTED = "expected 10 (forgets), 30d (days), epsilon=0.5, or none"


def gate_of(text: str) -> Gate | None:
    """The gate of a text such as 10, 30d or epsilon=0.5; None for "none". UsageError for anything else."""
    if text == "none":
        return None
    found = re.fullmatch(r"(\d+)|(\d+(?:\.\d+)?)d|epsilon=(\d+(?:\.\d+)?(?:[eE]-?\d+)?)", text)
    if found is None:
        raise UsageError(f"--after {text}: {EXPECTED}")
    forgets, days, epsilon = found.groups()
    try:
        if forgets is not None:
            return Gate(forgets=int(forgets))
        return Gate(seconds=float(days) * _DAY) if days is not None else Gate(epsilon=float(epsilon))
    except UsageError:
        raise UsageError(f"--after {text}: {EXPECTED}") from None


@dataclass(frozen=True)
class ReleaseGateSet(Fact):
    """From here on the gate is this; None: there is none. number: how often one was set before."""

    KIND = "release-gate-set"
    gate: Gate | None
    number: int


@dataclass
class ReleaseState:
    """A release, its place in the ledger, and the notices of its recall. spent: how many fits each shard had paid for then.

    tellings: by other means than a notice, each with its entry's number and time.
    """

    fact: Released
    number: int
    time: str
    notices: list[tuple[int, RecallNotified]] = field(default_factory=list)
    tellings: list[tuple[int, str, RecallTold]] = field(default_factory=list)
    spent: Mapping[int, int] = field(default_factory=dict)

    def notified(self, number: int | None = None) -> bool:
        """Whether its recall was told, by a notice or otherwise, up to a ledger entry; up to now by default."""
        told = [at for at, *_ in (*self.notices, *self.tellings)]
        return any(number is None or at <= number for at in told)

    @property
    def line(self) -> Any:
        """`Released.line`."""
        return self.fact.line
