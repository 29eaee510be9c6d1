"""Facts that the ledger commits: a type per kind of entry. Bodies of earlier versions are read, and written back as they were."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from taft_ray.additive.settings import Policy, Settings
from taft_ray.errors import IntegrityError
from taft_ray.jsonable import JsonObject, optional
from taft_ray.plans.additions import Added, AdditionBegun
from taft_ray.plans.fact import Damage, Fact, ObjectRef, Removed
from taft_ray.plans.lane_resources import LaneResourcesSet
from taft_ray.plans.releases import RecallNotified, RecallTold, Released, ReleaseGateSet
from taft_ray.plans.retention import RetentionSet
from taft_ray.plans.serving import Served, Withdrawn
from taft_ray.plans.spending import DpReserved
from taft_ray.storage import MALFORMED, CheckpointRef, DeltaRef


@dataclass(frozen=True)
class Created(Fact):
    """The run's first fact. spec, id_key: digests; id_key is None where no secret could be made."""

    KIND = "created"
    spec: str
    id_key: str | None = None
    environment: Mapping[str, Any] = field(default_factory=dict)
    host_python: str | None = None


@dataclass(frozen=True)
class Cached(Fact):
    """A finished prefix pass. samples: per shard. Times in seconds; started and ended are unix times."""

    KIND = "cached"
    manifest: str
    samples: tuple[int, ...]
    classes: tuple[str, ...]
    manifest_key: str | None = None
    base: ObjectRef | None = None
    counts: Mapping[str, Any] = field(default_factory=dict)
    fingerprint: str = ""
    seconds: float = 0.0
    prefix_seconds: float = 0.0
    started: float = 0.0
    ended: float = 0.0
    images: int = 0
    bytes: int = 0
    forgotten: int = 0  # samples that were not read again


@dataclass(frozen=True)
class Trained(Fact):
    """A shard's delta of one generation. parts: digests of what it was fitted on. facts: what the worker measured."""

    KIND = "trained"
    shard: int
    generation: int
    samples: int
    weight: int
    delta: DeltaRef
    facts: Mapping[str, Any]
    parts: tuple[str, ...] | None = None
    checkpoints: tuple[CheckpointRef, ...] = optional(())
    record: DeltaRef | None = optional()  # in a run of two tiers: which parts hold its rows


@dataclass(frozen=True)
class MonolithTrained(Fact):
    """The comparison model over everything."""

    KIND = "monolith-trained"
    generation: int
    samples: int
    delta: DeltaRef
    facts: Mapping[str, Any]
    parts: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Quarantined(Fact):
    """Objects of a shard (or of the comparison model) are damaged or gone: it leaves the sums.

    reason: why a shard without damage is put aside, such as fits that lost their workers. `TriedAgain` brings it back.
    """

    KIND = "quarantined"
    shard: int | str
    objects: tuple[Damage, ...]
    generation: int | None = optional()
    reason: str | None = optional()


@dataclass(frozen=True)
class TriedAgain(Fact):
    """These shards were put aside because they could not be fitted; they wait for a fit again, in the same generation."""

    KIND = "tried-again"
    shards: tuple[int, ...]


@dataclass(frozen=True)
class RepairedShard(JsonObject):
    """samples: those that it has now. checkpoints: keys of those that were damaged, and are gone."""

    samples: int
    checkpoints: tuple[str, ...] = ()


@dataclass(frozen=True)
class RepairedPart(JsonObject):
    """A cache part that was made again. as_before: whether it has the bytes that it had."""

    key: str
    digest: str
    as_before: bool


@dataclass(frozen=True)
class Repaired(Fact):
    """Damaged objects of these shards were made again: their next generation begins, and they are fitted again."""

    KIND = "repaired"
    shards: Mapping[str, RepairedShard]
    manifest: str | None
    manifest_key: str | None
    parts: tuple[RepairedPart, ...] = ()


@dataclass(frozen=True)
class TrainingFinished(Fact):
    """Wall clock of a training pass. Unix seconds; lanes_ready: when each lane asked first."""

    KIND = "training-finished"
    wall_seconds: float
    lanes: int
    started: float
    ended: float
    lanes_started: float | None = None
    lanes_ready: tuple[float, ...] = ()


@dataclass(frozen=True)
class ForgetRequested(Fact):
    """A forget: tombstones from here on. hashes, owners: of ids and owners. deadline, runs_at, started: unix seconds.

    first_requested: of a restored one, when it was asked for (unix seconds); ``started`` is when it was found again.
    """

    KIND = "forget-requested"
    request: str
    mode: str
    hashes: tuple[str, ...]
    shards: tuple[int, ...]
    composed_before: str | None = None
    started: float = 0.0
    owners: tuple[str, ...] = ()
    whole_shards: tuple[int, ...] = ()
    deadline: float | None = optional()
    runs_at: float | None = optional()
    unplaced: bool = optional(False)  # nobody could tell which shards it touches
    composed_before_unknown: str | None = optional()  # why it is
    restored: bool = optional(False)  # from what was kept beside the run
    first_requested: float | None = optional()


@dataclass(frozen=True)
class Placed(Fact):
    """The shards of a request that was made while the manifest could not be read."""

    KIND = "placed"
    request: str
    shards: tuple[int, ...]


@dataclass(frozen=True)
class Dropped(Fact):
    """The shards of a request left the sums. starts: what a resolve starts from, by shard. slices: those that lose samples.

    A subtraction takes out deltas alone, of a run of two tiers.
    """

    KIND = "dropped"
    request: str
    deltas: tuple[DeltaRef, ...]
    starts: Mapping[str, DeltaRef] = field(default_factory=dict)
    slices: Mapping[str, tuple[int, ...]] | None = optional()


@dataclass(frozen=True)
class LostPart(JsonObject):
    """A damaged part that went whole; its other samples are to be read again."""

    shard: int
    part: int
    key: str
    samples: int


@dataclass(frozen=True)
class Rewritten(Fact):
    """The manifest without a request's samples, and what is to be removed: its shards' next generation begins.

    samples: those left, by shard. checkpoints: those that stay. lost: samples without tokens. whole: damaged shards of which
    every part is there.

    deltas: the next generation's, of shards that stay in the model without the samples (mode subtract).

    records: the same of a run of two tiers, whose deltas are fitted again.
    """

    KIND = "rewritten"
    request: str
    manifest: str | None
    manifest_key: str | None
    samples: Mapping[str, int]
    removing: tuple[Removed, ...]
    checkpoints: Mapping[str, tuple[CheckpointRef, ...]] = field(default_factory=dict)
    lost: Mapping[str, int] = optional(dict)
    parts_lost: tuple[LostPart, ...] = optional(())
    whole: tuple[int, ...] = optional(())
    deltas: Mapping[str, DeltaRef] = optional(dict)
    records: Mapping[str, DeltaRef] = optional(dict)


@dataclass(frozen=True)
class Purge(Fact):
    """Objects that were removed. beyond_reach: why older versions could not be."""

    request: str
    removed: tuple[Removed, ...]
    still_listed: tuple[str, ...] = ()
    older_versions: int = 0
    beyond_reach: str | None = None


@dataclass(frozen=True)
class Purged(Purge):
    """A request's cache parts, deltas, checkpoints, rows, snapshots and evaluation caches were removed."""

    KIND = "purged"
    manifest: str | None = None
    seconds: float = 0.0
    drop_seconds: float | None = None


@dataclass(frozen=True)
class StartPurged(Purge):
    """The deltas that a resolve started from, removed after it."""

    KIND = "start-purged"


@dataclass(frozen=True)
class KeyDestroyed(Fact):
    """The secret of the id hashes is gone: nobody can tell any more whom a tombstone names."""

    KIND = "key-destroyed"


@dataclass(frozen=True)
class Forgotten(Fact):
    """The certificate of a request. composed_after: digest of the model, None where no shard is in it."""

    KIND = "forgotten"
    request: str
    certificate: ObjectRef
    composed_after: str | None
    seconds: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Signed(Fact):
    """A certificate's signature, and the object that has it."""

    KIND = "signed"
    request: str
    public_key: str
    signature: str
    key: str
    digest: str


@dataclass(frozen=True)
class Evaluated(Fact):
    """Accuracies on some data: of the composed model (each way), of the comparison model, by number of shards."""

    KIND = "evaluated"
    data: str
    accuracy: float
    n: int
    composed: str
    by_composition: Mapping[str, Mapping[str, Any]]
    monolith: float | None
    by_shards: tuple[Mapping[str, Any], ...]
    rejected: int = 0
    left_out: int = optional(0)  # rows whose ids the run has forgotten
    per_class: tuple[Mapping[str, Any], ...] = optional(())
    confusion: tuple[tuple[int, ...], ...] | None = optional()  # a row per true class
    confused: tuple[Mapping[str, Any], ...] = optional(())
    top5: float | None = optional()
    calibration_error: float | None = optional()
    calibration: tuple[Mapping[str, Any], ...] = optional(())
    settings: Settings | None = optional()  # of an additive run with a policy: those that the model had


@dataclass(frozen=True)
class Composed(Fact):
    """A composition. of: digest of the deltas in it, each with its weight."""

    KIND = "composed"
    mode: str
    digest: str
    seconds: float
    shards: int
    of: str | None = optional()


@dataclass(frozen=True)
class TriedSettings(JsonObject):
    """A candidate of a choice, with the best λ for it. gcv: None where the model could follow every picture."""

    size: int
    weights: tuple[float, ...]
    penalty: float
    gcv: float | None


@dataclass(frozen=True)
class Tuned(Fact):
    """A policy's choice for an additive run's model. of: the digest of the sums, without which the choice is stale.

    policy: None gives the choice up. tried: the candidates from the sums. left_out: how many pictures chose κ.

    accuracy, losses: of these pictures, each left out once; losses by κ in the policy's order.

    Criteria have three digits here, for this entry stays when a picture leaves: more would tell more of it.
    """

    KIND = "tuned"
    policy: Policy | None
    of: str | None = None
    settings: Settings | None = None
    tried: tuple[TriedSettings, ...] = ()
    left_out: int = 0
    accuracy: float | None = None
    losses: tuple[float | None, ...] = ()


KINDS: dict[str, type[Fact]] = {
    kind.KIND: kind
    for kind in (
        Created, LaneResourcesSet, Cached, AdditionBegun, Added, DpReserved, Trained, MonolithTrained, Quarantined, TriedAgain, Repaired, TrainingFinished,
        ForgetRequested, Placed, Dropped, Rewritten, Purged, StartPurged, KeyDestroyed, Forgotten, Signed, Evaluated, Composed, Tuned,
        Released, RecallNotified, RecallTold, ReleaseGateSet, RetentionSet,
        Served, Withdrawn,
    )
}  # fmt: skip

F = TypeVar("F", bound=Fact)


def read_fact(kind: str, body: Mapping[str, Any]) -> Fact:
    """The fact of a ledger entry; IntegrityError for one that no taft_ray of this version writes."""
    if kind not in KINDS:
        raise IntegrityError(f"unknown ledger entry {kind!r}: made by a newer taft_ray; use that one")
    try:
        return KINDS[kind].from_json(body)
    except MALFORMED as error:
        raise malformed(kind, error) from error


def fact_of(kind: type[F], body: Mapping[str, Any]) -> F:
    """`read_fact` of an entry whose kind is known."""
    fact = read_fact(kind.KIND, body)
    assert isinstance(fact, kind)
    return fact


def malformed(kind: str, error: Exception) -> IntegrityError:
    """The error for an entry whose fields are not those of its kind."""
    return IntegrityError(
        f"a ledger entry {str(kind)[:40]!r} has not the fields it should have "
        f"({type(error).__name__}: {str(error)[:80]}); restore the ledger from a copy"
    )
