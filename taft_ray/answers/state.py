"""Answers on where a run stands: `status`, `train`, `repair`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from taft_ray.answers.answer import Answer
from taft_ray.answers.requests import RESERVED
from taft_ray.answers.rows import HasRows
from taft_ray.answers.text import columns, moment, short, some, written_moment
from taft_ray.counting import plural, which
from taft_ray.jsonable import optional

_SHARDS, _REQUESTS = 20, 10  # that a person is shown


@dataclass(frozen=True)
class ShardStatus(Answer):
    """A shard. state: pending, trained, dropped, empty or quarantined. delta: its digest while it is in the model.

    state may be subtracted, too: its rows are in the model, and its delta is to be fitted again.
    """

    shard: int
    generation: int
    samples: int
    state: str
    delta: str | None


@dataclass(frozen=True)
class AdditionStatus(Answer):
    """Data that was added to the run. samples: as it was read in, and by now. known: rows that the run had already.

    forgotten: rows that stayed out because they are.
    """

    data: str
    shards: tuple[int, ...]
    samples: int
    samples_now: int
    known: int
    forgotten: int


@dataclass(frozen=True)
class RequestStatus(Answer):
    """A request to forget. deadline, runs_at: unix seconds, where it was gathered with others."""

    request: str
    mode: str
    samples: int
    done: bool
    deadline: float | None
    runs_at: float | None

    def state(self) -> str:
        """A word or two on how far it is."""
        return "done" if self.done else f"waits until {moment(self.runs_at)}" if self.runs_at else "under way"

    def told(self) -> str:
        """How far it is, in a sentence with its deadline."""
        by = f", for the deadline {moment(self.deadline)}" if self.deadline else ""
        how = f"waits until {moment(self.runs_at)}" if self.waits() else "is done" if self.done else "is under way"
        of = f"of {plural(self.samples, 'sample')}" if self.samples else "that brings dropped shards back"
        return f"request {self.request} {of} {how}{by}"

    def waits(self) -> bool:
        """Whether its time has not come."""
        return not self.done and self.runs_at is not None


@dataclass(frozen=True)
class DamagedObject(Answer):
    """An object in storage that is gone, or has not the bytes that were recorded."""

    key: str
    problem: str


@dataclass(frozen=True)
class Quarantined(Answer):
    """A shard that left the model because of damage; `taft-ray repair` makes it again.

    reason: why one without damage could not be fitted; `taft-ray train` tries it again.
    """

    shard: int
    since: str
    objects: tuple[DamagedObject, ...]
    samples_without_tokens: int
    reason: str | None = None

    def told(self) -> str:
        """A line for a person."""
        why = f": {self.reason}" if self.reason and not self.objects else ""
        return f"shard {self.shard} is in quarantine, out of the model{why}"


@dataclass(frozen=True)
class Composed(Answer):
    """A composed model and its snapshot. seconds: 0 where the snapshot was there already."""

    mode: str
    digest: str
    key: str
    seconds: float
    shards: int


@dataclass(frozen=True)
class ServedBy(Answer):
    """A serving that has not ended. modes: the compositions that its replicas answer with. lease, drain: seconds."""

    serving: str
    modes: tuple[str, ...]
    replicas: int
    lease: float
    drain: float

    def __str__(self) -> str:
        return f"{', '.join(self.modes)} by {plural(self.replicas, 'replica')} (serving {self.serving})"


@dataclass(frozen=True)
class RecordedOutcome(Answer):
    """The latest recorded outcome of a verb. ok: None where the verb gives no verdict. made: ISO 8601. number: of the ledger entry
    that it is of.

    since: how many entries came after that; None: it is of a ledger that is not this one. problem: why it cannot be read.
    """

    verb: str
    ok: bool | None
    made: str | None
    number: int
    since: int | None
    problem: str | None = optional()

    def __str__(self) -> str:
        if self.problem is not None:
            return f"{self.verb}: {self.problem}"
        verdict = {True: "ok", False: "NOT ok", None: "done"}[self.ok]
        if self.since is None:
            later = "of a ledger that is not this one"
        elif self.since:
            later = f"OLDER than the ledger by {plural(self.since, 'entry', 'entries')}"
        else:
            later = "of the ledger as it is"
        return f"{self.verb} {verdict} at {written_moment(self.made or '')}, {later}"


@dataclass(frozen=True)
class Waiting(Answer):
    """A command, or a part of one, that waits for a place in the cluster. since: unix seconds."""

    by: str
    what: str
    since: float

    def __str__(self) -> str:
        return f"waiting: {self.by} has waited for {self.what} since {moment(self.since)}"


@dataclass(frozen=True)
class Status(Answer, HasRows):
    """Where a run stands. ok: no shard is in quarantine, and nothing damaged is in the way.

    composed: the digest of the composed model, None while no shard is in it.

    data: counts of the rows as they were read in.

    to_do: what somebody has to run, a sentence each.

    accuracy: the latest that was measured of the composed model, on the data ``measured_on``; None where none was.

    samples: in all shards, also those that are not in the model. privacy: of a private run, ε spent by its dearest shard.

    outcomes: the latest outcome of each check that was recorded in the run.

    retention: where a date is set, until when the key of the id hashes is kept (unix seconds), and whether that has passed.

    kind: which model the run has, what is kept of each shard, and how it forgets by default, in a sentence.
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
    model: str | None = None
    classes: tuple[str, ...] = ()
    accuracy: float | None = None
    measured_on: str | None = None
    additions: tuple[AdditionStatus, ...] = optional(())
    privacy: Mapping[str, Any] | None = optional()
    waiting: tuple[Waiting, ...] = optional(())
    retention: Mapping[str, Any] | None = optional()
    servings: tuple[ServedBy, ...] = optional(())
    outcomes: tuple[RecordedOutcome, ...] = optional(())
    kind: str | None = optional()

    def pending(self) -> bool:
        """Whether shards wait for a fit, or the data was not read in yet."""
        return any(shard.state == "pending" for shard in self.shards) or not self.shards

    def under_way(self) -> bool:
        """Whether a process is at work on the run, or has to be: shards wait for a fit, or requests for their end."""
        return self.pending() or any(not one.done and one.runs_at is None for one in self.requests)

    def __str__(self) -> str:
        parts = [
            self._facts(),
            self._additions(),
            self._shards(),
            self._requests(),
            *(one.told() for one in self.quarantined if one.reason),
            *map(str, self.waiting),
            *(f"to do: {one}" for one in self.to_do),
        ]
        parts += [f"damaged: {self.damaged}"] if self.damaged else []
        return "\n\n".join(part for part in parts if part)

    def _facts(self) -> str:
        states = Counter(shard.state for shard in self.shards)
        counted = ", ".join(f"{count} {state}" for state, count in sorted(states.items(), key=lambda one: -one[1]))
        facts = [
            ("run", self.run),
            ("kind", self.kind),
            ("model", self.model),
            ("classes", f"{len(self.classes)}: {some(self.classes)}" if self.classes else None),
            (
                "shards",
                f"{len(self.shards)} ({counted})" if self.shards else None,
            ),
            ("samples", self._samples() if self.shards else None),
            ("composed", self.composed or "no shard is in the model"),
            ("accuracy", None if self.accuracy is None else f"{self.accuracy:.1%} on {self.measured_on}"),
            ("served", "; ".join(map(str, self.servings)) or None),
            ("privacy", self._privacy()),
            ("rejected", self._rejected()),
            ("key", self._key()),
            *(("checked", str(one)) for one in self.outcomes),
        ]
        return "\n".join(f"{name:<10}{value}" for name, value in facts if value is not None)

    def _samples(self) -> str:
        """How many there are, and how many the model is of: a dropped shard's are not in it."""
        inside = sum(shard.samples for shard in self.shards if shard.state in ("trained", "subtracted"))
        return f"{plural(self.samples, 'sample')}, {inside:,} of them in the model"

    def _privacy(self) -> str | None:
        if self.privacy is None:
            return None
        cap = "no budget" if self.privacy["budget"] is None else f"budget {self.privacy['budget']:g}"
        return f"ε = {self.privacy['epsilon']:.3g} at δ = {self.privacy['delta']:g} spent, {cap}"

    def _key(self) -> str | None:
        if self.retention is None:
            return None
        if self.retention["key_destroyed"]:
            return "destroyed: nobody can tell whom a tombstone names"
        return (
            f"{'was to be kept until' if self.retention['passed'] else 'kept until'} {moment(self.retention['until'])}"
        )

    def _rejected(self) -> str | None:
        count = (self.data or {}).get("rejected")
        return (
            f"{plural(count, 'row')} of the data; taft-ray status {self.run} --rejected lists them" if count else None
        )

    def _additions(self) -> str:
        """A line per addition; a run that was never added to has none."""
        head = ["added", "shards", "samples", "now", "known before", "forgotten"]
        rows = [
            [one.data, some([str(n) for n in one.shards]), one.samples, one.samples_now, one.known, one.forgotten]
            for one in self.additions
        ]
        return columns(head, rows, (2, 3, 4, 5)) if rows else ""

    def _shards(self) -> str:
        """All shards, or of many those that are not simply trained."""
        shown = list(self.shards)
        if len(shown) > _SHARDS:
            shown = [shard for shard in shown if (shard.state, shard.generation) != ("trained", 1)][:_SHARDS]
        rows = [[shard.shard, shard.state, shard.generation, shard.samples, short(shard.delta)] for shard in shown]
        table = columns(["shard", "state", "generation", "samples", "delta"], rows, (0, 2, 3)) if rows else ""
        left = len(self.shards) - len(shown)
        more = f"and {plural(left, 'shard')} more; --json has all" if rows else "--json has a line per shard"
        return "\n".join(filter(None, [table, more if left else ""]))

    def _requests(self) -> str:
        head = ["request", "mode", "samples", "state", "deadline"]
        shown = self.requests[-_REQUESTS:]
        rows = [[one.request, one.mode, one.samples, one.state(), moment(one.deadline)] for one in shown]
        more = len(self.requests) - len(shown)
        table = columns(head, rows, (2,)) if rows else ""
        older = f"after {plural(more, 'request')} more; --json has all" if more else ""
        return "\n".join(filter(None, [table, older, RESERVED if any(one.waits() for one in self.requests) else ""]))


@dataclass(frozen=True)
class Trained(Status):
    """`Status` after a training. seconds: of the whole call. notes: what a person should know of the data and weights."""

    compose: Composed | None = None
    seconds: float = 0.0
    notes: tuple[str, ...] | None = optional()

    def __str__(self) -> str:
        notes = [f"note: {one}" for one in self.notes or ()]
        return "\n\n".join([super().__str__(), *notes, f"took {self.seconds:,.1f} s"])


@dataclass(frozen=True)
class Repaired(Status):
    """`Status` after a repair. repaired: shards made again. not_repaired: why the others were not, a sentence each."""

    repaired: tuple[int, ...] = ()
    not_repaired: tuple[str, ...] = ()

    def __str__(self) -> str:
        made = f"made again: {which('shard', self.repaired)}" if self.repaired else "no shard had to be made again"
        return "\n\n".join([super().__str__(), made, *(f"not repaired: {why}" for why in self.not_repaired)])
