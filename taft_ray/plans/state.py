"""The state of a run, and questions to it: the fold of its ledger's facts (`fold`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

from taft_ray.plans.additions import Added, AdditionBegun
from taft_ray.plans.facts import (
    Cached,
    Composed,
    Created,
    Damage,
    Dropped,
    Evaluated,
    Forgotten,
    MonolithTrained,
    Purged,
    Rewritten,
    Signed,
    StartPurged,
    Trained,
    TrainingFinished,
    Tuned,
)
from taft_ray.plans.lane_resources import ANYWHERE, LaneResources
from taft_ray.plans.releases import Gate, ReleaseGateSet, ReleaseState
from taft_ray.plans.retention import RetentionSet
from taft_ray.plans.serving import ServingState, Withdrawn
from taft_ray.plans.spending import DpReserved
from taft_ray.storage import CheckpointRef, DeltaRef, digest_json

PENDING, TRAINED, DROPPED, EMPTY, QUARANTINED = "pending", "trained", "dropped", "empty", "quarantined"
SUBTRACTED = "subtracted"
MONOLITH = "monolith"
FITTING = ("retrain", "resolve")  # modes of a forget after which shards are fitted again
SUBTRACT = "subtract"  # the mode of a forget in which no shard leaves the model


class Entry(Protocol):
    """A ledger entry, as far as decisions need it."""

    @property
    def kind(self) -> str: ...
    @property
    def time(self) -> str: ...
    @property
    def body(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Quarantine:
    """Why a shard is out of the model although nobody asked for it, and what becomes of it once it is repaired."""

    since: str
    objects: tuple[Damage, ...]
    was: str  # the state that it would be in: trained, pending or dropped
    delta: DeltaRef | None  # the delta that it had; dead, and named until the shard's next generation
    record: DeltaRef | None = None  # the same of its record
    reason: str | None = None  # why it is there without any damage: nobody could fit it


@dataclass
class ShardState:
    shard: int
    samples: int = 0
    generation: int = 0  # of the last delta; 0: never trained
    purges: int = 0  # how often its cache was rewritten: what was made before the last time is never committed after it
    state: str = PENDING
    delta: DeltaRef | None = None  # while the shard is in the model
    record: DeltaRef | None = (
        None  # of a run of two tiers, while the shard's rows are in the model, with or without its delta
    )
    weight: int = 0
    facts: Mapping[str, Any] = field(default_factory=dict)
    checkpoints: tuple[CheckpointRef, ...] = ()  # by stage; they outlive a drop, not a loss
    quarantine: Quarantine | None = None
    lost: int = 0  # samples that went with a damaged part and are still to be read again
    returning: bool = False  # repaired, and not fitted again yet: it was in the model
    retries: int = 0  # how often it was brought back after nobody could fit it

    @property
    def unfitted(self) -> bool:
        """Whether it is in quarantine because nobody could fit it, and for nothing else."""
        return self.quarantine is not None and self.quarantine.reason is not None and not self.quarantine.objects

    @property
    def in_sums(self) -> DeltaRef:
        """The delta of a shard that is in the model."""
        assert self.delta is not None
        return self.delta

    @property
    def told(self) -> str:
        """`state` for a person: "subtracted" where the shard's rows are in the model, and its delta is to be fitted again."""
        return SUBTRACTED if self.state == DROPPED and self.record is not None else self.state

    def member(self, by_records: bool = False) -> DeltaRef | None:
        """The delta (or the record) by which the shard is in the sums of that tier; None where it is not."""
        return self.record if by_records else self.delta if self.state == TRAINED else None

    @property
    def current(self) -> int:
        """The generation that a delta must have to be committed now; a shard has one a purge at most."""
        return self.purges + 1


@dataclass
class MonolithState:
    """The comparison model last trained. delta: None once it was purged or lost. removed_by: the request that purged it."""

    fit: MonolithTrained
    delta: DeltaRef | None
    lost: bool = False
    removed_by: str | None = None


@dataclass
class RequestState:
    request: str
    mode: str
    hashes: tuple[str, ...]
    shards: tuple[int, ...]
    time: str
    composed_before: str | None
    started: float = 0.0
    owners: tuple[str, ...] = ()  # hashes of the owners asked for
    whole_shards: tuple[int, ...] = ()  # shards asked for by number
    deadline: float | None = None  # unix seconds; None: at once
    runs_at: float | None = None
    dropped: Dropped | None = None
    rewritten: Rewritten | None = None
    purged: Purged | None = None
    start_purged: StartPurged | None = None
    forgotten: Forgotten | None = None
    signed: Signed | None = None
    unplaced: bool = False  # nobody could tell which shards it touches
    composed_before_unknown: str | None = None  # why it is
    left_at: int | None = None  # the ledger entry by which its samples left the sums
    lost_from: tuple[int, ...] | None = None  # the shards that had samples of it; None: not known yet
    withdrawn: list[Withdrawn] = field(default_factory=list)  # models that are served no more
    first_requested: float | None = None  # of one that was found beside the run (unix seconds)

    @property
    def asked(self) -> float:
        """When it was asked for (unix seconds), which is before it began where it was found beside the run."""
        if self.first_requested is not None:
            return self.first_requested
        return self.started or datetime.fromisoformat(self.time).timestamp()

    @property
    def requested(self) -> str:
        """When it was asked for (ISO 8601): the time of its entry, unless it was found beside the run."""
        return requested_at(self.time, self.first_requested)

    def is_kept_in(self, tombstone: Mapping[str, Any]) -> bool:
        """Whether a tombstone asks for all that the request asked."""
        asked = set(self.hashes) <= set(tombstone["hashes"]) and set(self.owners) <= set(tombstone["owners"])
        return asked and self.mode == tombstone["mode"]

    @property
    def waiting(self) -> bool:
        """Whether it is gathered with others until its time comes: so far it is a promise and a tombstone."""
        return self.deadline is not None and self.dropped is None


def requested_at(time: str, first_requested: float | None) -> str:
    """When a request was asked for (ISO 8601): the time of its entry, unless it was found beside the run."""
    if first_requested is None:
        return time
    return datetime.fromtimestamp(first_requested, UTC).isoformat(timespec="microseconds")


@dataclass
class RunState:
    shards: dict[int, ShardState] = field(default_factory=dict)
    pending: dict[int, None] = field(default_factory=dict)  # shards without a delta, the largest first
    moves: list[int] = field(default_factory=list)  # every shard whose delta came or went, in the order of the entries
    requests: dict[str, RequestState] = field(default_factory=dict)
    unpurged: dict[str, RequestState] = field(default_factory=dict)  # those whose samples may still be in the cache
    tombstones: dict[str, str] = field(default_factory=dict)  # id hash -> the request that forgot it
    owner_tombstones: dict[str, str] = field(default_factory=dict)  # owner hash -> the request that forgot them
    manifest: str | None = None  # the digest of the manifest last committed, and its key
    manifest_key: str | None = None
    rewrites: int = 0  # how often the manifest was rewritten
    key_destroyed: bool = False
    monolith_losses: int = 0  # how often the comparison model was found damaged
    fits: list[Trained] = field(default_factory=list)  # every fit of a shard, first ones and retrains
    monolith: MonolithState | None = None
    created: Created | None = None
    created_time: str = ""
    per_lane: LaneResources = ANYWHERE  # what workers take, and how often it was said
    per_lane_set: int = 0
    cached: Cached | None = None
    additions: list[Added] = field(default_factory=list)
    adding: AdditionBegun | None = None  # data that is being read in
    additions_begun: int = 0
    reserved: int = 0  # shards below this number are, or were, of an addition that was begun
    trainings: list[TrainingFinished] = field(default_factory=list)
    evaluations: list[Evaluated] = field(default_factory=list)
    compositions: list[Composed] = field(default_factory=list)
    reservations: dict[int, list[DpReserved]] = field(default_factory=dict)  # privacy spent, by shard
    tunings: list[Tuned] = field(default_factory=list)  # of an additive run's settings, and giving them up
    entries: int = 0  # of the ledger that are folded in
    added_at: int = -1  # the entry of the latest addition
    releases: dict[str, ReleaseState] = field(default_factory=dict)  # what left the house, by name
    gates: list[ReleaseGateSet] = field(default_factory=list)
    retentions: list[RetentionSet] = field(default_factory=list)
    servings: dict[str, ServingState] = field(default_factory=dict)  # by name, those that have ended too

    @property
    def gate(self) -> Gate | None:
        """The gate that holds back publication of a newer model; None: there is none."""
        return self.gates[-1].gate if self.gates else None

    @property
    def key_kept_until(self) -> float | None:
        """Until when the key of the id hashes is kept (unix seconds); None: no date is set."""
        return self.retentions[-1].until if self.retentions else None

    @property
    def environment(self) -> Mapping[str, Any]:
        """The machine the run was made on; empty where it has not begun."""
        return {} if self.created is None else self.created.environment

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes, in the order of the logits; empty before the prefix pass."""
        if self.additions:
            return self.additions[-1].classes
        return () if self.cached is None else self.cached.classes

    @property
    def next_shard(self) -> int:
        """The first number that no shard has, and no addition has had: the parts of one that was cut off stay dead."""
        return max(self.reserved, *(number + 1 for number in self.shards), 0)

    def dead_shards(self) -> set[int]:
        """Numbers of shards of additions that were begun and can never be committed any more."""
        adding = () if self.adding is None else range(self.adding.first, self.adding.first + self.adding.shards)
        return {*range(self.reserved)} - self.shards.keys() - {*adding}

    @property
    def identity(self) -> str:
        """The digest of the secret of its id hashes, which names its tombstones; empty where there is none."""
        return "" if self.created is None else self.created.id_key or ""

    @property
    def monolith_delta(self) -> DeltaRef | None:
        """The comparison model's delta, while there is one."""
        return None if self.monolith is None else self.monolith.delta

    @property
    def in_model(self) -> list[ShardState]:
        """Shards whose deltas are in the sums, by number."""
        return self.in_tier()

    def in_tier(self, by_records: bool = False) -> list[ShardState]:
        """Shards whose deltas, or whose records, are in the sums, by number."""
        return [shard for _, shard in sorted(self.shards.items()) if shard.member(by_records) is not None]

    @property
    def members(self) -> str:
        """The digest of the deltas in the model, each with its weight: what a composition is of."""
        return self.members_of()

    def members_of(self, by_records: bool = False) -> str:
        """`members`, of the tier of deltas or of that of records."""
        members: list[Any] = []
        for shard in self.in_tier(by_records):
            ref = shard.member(by_records)
            assert ref is not None
            members.append([shard.shard, ref.digest, shard.weight])
        grown = self.cached is not None and len(self.classes) > len(self.cached.classes)
        return digest_json([*members, {"classes": len(self.classes)}] if grown else members)

    @property
    def served_modes(self) -> list[str]:
        """The compositions that replicas may answer with now."""
        return sorted({mode for one in self.open_servings for mode in one.fact.modes})

    @property
    def open_servings(self) -> list[ServingState]:
        """The servings that have not ended."""
        return [one for one in self.servings.values() if not one.fact.ended]

    def composed_as(self, mode: str, by_records: bool) -> str | None:
        """The digest of the latest composition of just the members there are; None where none was committed."""
        of = self.members_of(by_records)
        return next((one.digest for one in reversed(self.compositions) if one.mode == mode and one.of == of), None)

    def composed_now(self, mode: str) -> str | None:
        """`composed_as`, of whichever tier the composition is of."""
        found = (self.composed_as(mode, by_records) for by_records in (False, True))
        return next((digest for digest in found if digest is not None), None)

    @property
    def tuned(self) -> Tuned | None:
        """The latest choice of settings, which may be of other sums; None where there is no policy."""
        latest = self.tunings[-1] if self.tunings else None
        return None if latest is None or latest.policy is None else latest

    def promised(self) -> dict[str, float]:
        """The id hashes that wait for a request to be carried out, and the first deadline of each.

        Those that a request without a deadline has taken over do not wait.
        """
        waiting = [(r.deadline, r.hashes) for r in self.unpurged.values() if r.waiting and r.deadline is not None]
        # the latest first, so that the first deadline stays
        promised = {digest: at for at, hashes in sorted(waiting, reverse=True) for digest in hashes}
        return {digest: at for digest, at in promised.items() if self.requests[self.tombstones[digest]].waiting}

    def being_purged(self, shard: int) -> bool:
        """Whether samples of this shard are asked to go and are still in its cache: no fit of it counts meanwhile."""
        return any(
            request.rewritten is None and not request.waiting and shard in request.shards
            for request in self.unpurged.values()
        )

    @property
    def quarantined(self) -> list[ShardState]:
        """Shards that are out of the model because of damage, or because nobody could fit them, by number."""
        return [shard for _, shard in sorted(self.shards.items()) if shard.quarantine is not None]

    def quarantined_keys(self) -> set[str]:
        """The keys of deltas and records of quarantined shards: never used again, and kept until the shard's next generation."""
        ill = [shard.quarantine for shard in self.quarantined if shard.quarantine is not None]
        return {ref.key for one in ill for ref in (one.delta, one.record) if ref is not None}

    def delta_keys(self) -> set[str]:
        """The keys of all deltas and records that the ledger names: those in the model, and the monolith's."""
        refs = [shard.member(tier) for tier in (False, True) for shard in self.shards.values()] + [self.monolith_delta]
        return {ref.key for ref in refs if ref is not None}

    def noise_keys(self) -> set[str]:
        """The keys of the noise of every shard's current generation."""
        return {
            one.key.key
            for number, several in self.reservations.items()
            for one in several
            if number in self.shards and one.generation == self.shards[number].current and not one.restored
        }

    def checkpoint_keys(self) -> set[str]:
        """The keys of all slice checkpoints that a fit may go on from."""
        return {ref.key for shard in self.shards.values() for ref in shard.checkpoints}

    def forgotten(self) -> set[str]:
        """The id hashes of all samples that are to be gone by now."""
        return self.tombstones.keys() - self.promised().keys()

    def start_keys(self) -> set[str]:
        """The keys of the deltas that a resolve under way starts from."""
        open_ones = [
            r for r in self.requests.values() if r.mode == "resolve" and r.forgotten is None and r.start_purged is None
        ]
        return {ref.key for r in open_ones if r.dropped is not None for ref in r.dropped.starts.values()}

    def warm_start(self, shard: int) -> DeltaRef | None:
        """The delta that a resolve of this shard starts from, None when there is none: then it starts from zero."""
        for request in reversed(self.requests.values()):
            if request.mode == "resolve" and request.start_purged is None and request.dropped is not None:
                start = request.dropped.starts.get(str(shard))
                if start is not None:
                    return start
        return None
