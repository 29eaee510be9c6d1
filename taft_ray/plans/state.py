"""What is true of a run: the fold of its ledger's entries.

Kinds of entries, and the facts they commit:
    created             the spec's digest and the environment
    cached              the manifest's digest, samples a shard, counts and times of the prefix pass
    trained             a shard's delta of one generation
    quarantined         objects of a shard (or of the comparison model) are damaged or gone: it leaves the sums
    repaired            what was damaged in these shards was made again: their next generation begins, and they are fitted again
    monolith-trained    the comparison model over everything
    training-finished   wall clock of a training pass
    forget-requested    a forget: hashes of ids, mode, shards, perhaps a deadline (tombstones from here on)
    placed              the shards of a request that was made while the manifest could not be read
    dropped             the shards of a request left the sums; which of their slices lose samples
    rewritten           the manifest without a request's samples, the slice checkpoints that stay, and what is to be removed:
                        its shards' next generation begins
    purged              what was removed
    key-destroyed       the secret of the id hashes is gone: nobody can tell any more whom a tombstone names
    start-purged        the deltas that a resolve started from, removed after it
    forgotten           the certificate's digest
    signed              a certificate's signature, and the digest of the object that has it
    evaluated           an accuracy
    composed            how long a composition took, and its digest
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from taft_ray.errors import IntegrityError
from taft_ray.plans.slices import after_fit
from taft_ray.storage import MALFORMED

PENDING, TRAINED, DROPPED, EMPTY, QUARANTINED = "pending", "trained", "dropped", "empty", "quarantined"
MONOLITH = "monolith"


class Fact(Protocol):
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
    objects: tuple[Mapping[str, str], ...]  # {"key", "problem"}
    was: str  # the state that it would be in: trained, pending or dropped
    delta: Mapping[str, Any] | None  # the delta that it had; dead, and named until the shard's next generation


@dataclass
class ShardState:
    shard: int
    samples: int = 0
    generation: int = 0  # of the last delta; 0: never trained
    purges: int = 0  # how often its cache was rewritten: what was made before the last time is never committed after it
    state: str = PENDING
    delta: Mapping[str, Any] | None = None  # a DeltaRef as JSON, while the shard is in the model
    weight: int = 0
    facts: Mapping[str, Any] = field(default_factory=dict)
    checkpoints: tuple[Mapping[str, Any], ...] = ()  # CheckpointRefs as JSON, by stage; they outlive a drop, not a loss
    quarantine: Quarantine | None = None
    lost: int = 0  # samples that went with a damaged part and are still to be read again
    returning: bool = False  # repaired, and not fitted again yet: it was in the model

    @property
    def current(self) -> int:
        """The generation that a delta must have to be committed now; a shard has one a purge at most."""
        return self.purges + 1


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
    dropped: Mapping[str, Any] | None = None
    rewritten: Mapping[str, Any] | None = None
    purged: Mapping[str, Any] | None = None
    start_purged: Mapping[str, Any] | None = None
    forgotten: Mapping[str, Any] | None = None
    signed: Mapping[str, Any] | None = None
    unplaced: bool = False  # nobody could tell which shards it touches
    composed_before_unknown: str | None = None  # why it is

    @property
    def waiting(self) -> bool:
        """Whether it is gathered with others until its time comes: so far it is a promise and a tombstone."""
        return self.deadline is not None and self.dropped is None


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
    fits: list[Mapping[str, Any]] = field(default_factory=list)  # every fit of a shard, first ones and retrains
    monolith: Mapping[str, Any] | None = None  # the last one trained; its "delta" is None once purged
    created: Mapping[str, Any] | None = None
    created_time: str = ""
    cached: Mapping[str, Any] | None = None
    trainings: list[Mapping[str, Any]] = field(default_factory=list)
    evaluations: list[Mapping[str, Any]] = field(default_factory=list)
    compositions: list[Mapping[str, Any]] = field(default_factory=list)

    @property
    def in_model(self) -> list[ShardState]:
        """Shards whose deltas are in the sums, by number."""
        return [shard for _, shard in sorted(self.shards.items()) if shard.state == TRAINED]

    def promised(self) -> dict[str, float]:
        """The id hashes that wait for a request to be carried out, and the first deadline of each."""
        waiting = [(r.deadline, r.hashes) for r in self.unpurged.values() if r.waiting and r.deadline is not None]
        # the latest first, so that the first deadline stays
        return {digest: at for at, hashes in sorted(waiting, reverse=True) for digest in hashes}

    def being_purged(self, shard: int) -> bool:
        """Whether samples of this shard are asked to go and are still in its cache: no fit of it counts meanwhile."""
        return any(
            request.rewritten is None and not request.waiting and shard in request.shards
            for request in self.unpurged.values()
        )

    @property
    def quarantined(self) -> list[ShardState]:
        """Shards that are out of the model because of damage, by number."""
        return [shard for _, shard in sorted(self.shards.items()) if shard.quarantine is not None]

    def quarantined_keys(self) -> set[str]:
        """The keys of deltas of quarantined shards: never used again, and kept until the shard's next generation."""
        kept = (shard.quarantine.delta for shard in self.quarantined if shard.quarantine is not None)
        return {str(ref["key"]) for ref in kept if ref}

    def delta_keys(self) -> set[str]:
        """The keys of all deltas that a record names: those in the model, and the monolith's."""
        refs = [shard.delta for shard in self.in_model] + [(self.monolith or {}).get("delta")]
        return {str(ref["key"]) for ref in refs if ref}

    def checkpoint_keys(self) -> set[str]:
        """The keys of all slice checkpoints that a fit may go on from."""
        return {str(ref["key"]) for shard in self.shards.values() for ref in shard.checkpoints}

    def forgotten(self) -> set[str]:
        """The id hashes of all samples that are to be gone by now."""
        return self.tombstones.keys() - self.promised().keys()

    def start_keys(self) -> set[str]:
        """The keys of the deltas that a resolve under way starts from."""
        open_ones = [
            r for r in self.requests.values() if r.mode == "resolve" and r.forgotten is None and r.start_purged is None
        ]
        return {str(ref["key"]) for r in open_ones for ref in (r.dropped or {}).get("starts", {}).values()}

    def warm_start(self, shard: int) -> Mapping[str, Any] | None:
        """The delta that a resolve of this shard starts from, None when there is none: then it starts from zero."""
        for request in reversed(self.requests.values()):
            if request.mode == "resolve" and request.start_purged is None and request.dropped is not None:
                start = request.dropped.get("starts", {}).get(str(shard))
                if start is not None:
                    return start
        return None

    def apply(self, entry: Fact) -> None:
        """Fold one more entry in; IntegrityError for one that no taft_ray of this version writes."""
        try:
            self._fold(entry)
        except MALFORMED as error:
            raise IntegrityError(
                f"a ledger entry {str(entry.kind)[:40]!r} has not the fields it should have "
                f"({type(error).__name__}: {str(error)[:80]}); restore the ledger from a copy"
            ) from error

    def _fold(self, entry: Fact) -> None:
        body = entry.body
        match entry.kind:
            case "created":
                self.created, self.created_time = body, entry.time
            case "cached":
                self.cached, self.manifest, self.manifest_key = body, body["manifest"], body.get("manifest_key")
                for number, samples in enumerate(body["samples"]):
                    self.shards[number] = ShardState(number, samples, state=PENDING if samples else EMPTY)
                self._order_pending(self.shards)
            case "trained":
                shard = self.shards[body["shard"]]
                self.pending.pop(shard.shard, None)
                self.moves.append(shard.shard)
                shard.generation, shard.samples, shard.weight = body["generation"], body["samples"], body["weight"]
                shard.delta, shard.facts, shard.state = body["delta"], body["facts"], TRAINED
                shard.returning = False
                shard.checkpoints = after_fit(shard.checkpoints, body.get("checkpoints", ()))
                self.fits.append(body)
            case "monolith-trained":
                self.monolith = body
            case "quarantined" if body["shard"] == MONOLITH:
                self.monolith_losses += 1
                if self.monolith is not None:
                    self.monolith = {**self.monolith, "delta": None, "lost": True}
            case "quarantined":
                self._quarantine(entry)
            case "repaired":
                self._repair(body)
            case "placed":
                request = self.requests[body["request"]]
                request.shards, request.unplaced = tuple(body["shards"]), False
            case "training-finished":
                self.trainings.append(body)
            case "forget-requested":
                self._request(entry)
            case "dropped":
                request = self.requests[body["request"]]
                request.dropped = body
                for number in request.shards:
                    shard = self.shards[number]
                    if shard.state == TRAINED:
                        shard.state, shard.delta = DROPPED, None
                        self.moves.append(number)
                    elif shard.returning:
                        shard.state, shard.returning = DROPPED, False
                        self.pending.pop(number, None)
                    elif shard.quarantine is not None:
                        shard.quarantine = _asked_of(shard.quarantine, request.mode)
                if self.monolith is not None:
                    self.monolith = {**self.monolith, "delta": None, "lost": False}
            case "rewritten":
                self._rewrite(body)
            case "purged":
                self.requests[body["request"]].purged = body
                self.unpurged.pop(body["request"], None)
            case "start-purged":
                self.requests[body["request"]].start_purged = body
            case "key-destroyed":
                self.key_destroyed = True
            case "forgotten":
                self.requests[body["request"]].forgotten = body
            case "signed":
                self.requests[body["request"]].signed = body
            case "evaluated":
                self.evaluations.append({**body, "time": entry.time})
            case "composed":
                self.compositions.append({**body, "time": entry.time})
            case other:
                raise IntegrityError(f"unknown ledger entry {other!r}: made by a newer taft_ray; use that one")

    def _order_pending(self, numbers: Iterable[int]) -> None:
        waiting = [shard for shard in map(self.shards.__getitem__, numbers) if shard.state == PENDING]
        waiting.sort(key=lambda shard: (-shard.samples, shard.shard))
        self.pending = dict.fromkeys(shard.shard for shard in waiting)

    def _quarantine(self, entry: Fact) -> None:
        shard = self.shards[entry.body["shard"]]
        objects = tuple({"key": str(one["key"]), "problem": str(one["problem"])} for one in entry.body["objects"])
        before = shard.quarantine
        if before is not None:
            known = {one["key"] for one in before.objects}
            more = tuple(one for one in objects if one["key"] not in known)
            shard.quarantine = replace(before, objects=before.objects + more)
            return
        was = TRAINED if shard.returning else shard.state
        if was == DROPPED and any(
            r.mode != "drop" and r.forgotten is None and r.dropped is not None and shard.shard in r.shards
            for r in self.requests.values()
        ):
            was = TRAINED  # a retrain was under way
        shard.quarantine = Quarantine(entry.time, objects, was, shard.delta)
        if shard.state == TRAINED:
            self.moves.append(shard.shard)
        shard.state, shard.delta, shard.returning = QUARANTINED, None, False
        self.pending.pop(shard.shard, None)

    def _repair(self, body: Mapping[str, Any]) -> None:
        if body["manifest"] is not None:
            self.rewrites += 1
            self.manifest, self.manifest_key = body["manifest"], body["manifest_key"]
        for number, facts in body["shards"].items():
            shard = self.shards[int(number)]
            shard.purges += 1
            shard.samples, shard.lost = facts["samples"], 0
            shard.checkpoints = tuple(
                ref for ref in shard.checkpoints if ref["key"] not in facts.get("checkpoints", ())
            )
            if shard.quarantine is not None:
                shard.state = DROPPED if shard.quarantine.was == DROPPED else PENDING
                shard.returning = shard.quarantine.was == TRAINED
                shard.quarantine = None
        self._order_pending([*self.pending, *(int(number) for number in body["shards"])])

    def _rewrite(self, body: Mapping[str, Any]) -> None:
        request = self.requests[body["request"]]
        request.rewritten = body
        self.rewrites += 1
        if body["manifest"] is not None:
            self.manifest, self.manifest_key = body["manifest"], body["manifest_key"]
        for number in request.shards:
            self.shards[number].purges += 1
        for number, samples in body["samples"].items():
            shard = self.shards[int(number)]
            shard.samples, shard.lost = samples, body.get("lost", {}).get(number, 0)
            if not samples and not shard.lost:
                if shard.state == TRAINED:
                    self.moves.append(shard.shard)
                shard.state, shard.quarantine, shard.returning = EMPTY, None, False
            elif shard.quarantine is not None and int(number) in body.get("whole", ()):
                # what is left of it was read whole, and its delta goes with the purge
                shard.state = PENDING if shard.quarantine.was == PENDING else DROPPED
                shard.quarantine = None
        self._order_pending([*self.pending, *request.shards])
        for number, refs in body.get("checkpoints", {}).items():
            self.shards[int(number)].checkpoints = tuple(refs)

    def _request(self, entry: Fact) -> None:
        body = entry.body
        request = RequestState(
            request=body["request"],
            mode=body["mode"],
            hashes=tuple(body["hashes"]),
            shards=tuple(body["shards"]),
            time=entry.time,
            composed_before=body.get("composed_before"),
            started=body.get("started", 0.0),
            owners=tuple(body.get("owners", ())),
            whole_shards=tuple(body.get("whole_shards", ())),
            deadline=body.get("deadline"),
            runs_at=body.get("runs_at"),
            unplaced=bool(body.get("unplaced", False)),
            composed_before_unknown=body.get("composed_before_unknown"),
        )
        for digest in request.hashes:
            first = self.tombstones.get(digest)
            if first is None or self.requests[first].waiting:  # a sooner one takes over what waits
                self.tombstones[digest] = request.request
        self.requests[request.request] = self.unpurged[request.request] = request
        for digest in request.owners:
            self.owner_tombstones.setdefault(digest, request.request)


def _asked_of(quarantine: Quarantine, mode: str) -> Quarantine:
    """What a forget that touches a quarantined shard makes of it: the state that it would be in without the damage."""
    if mode != "drop":
        return replace(quarantine, was=TRAINED) if quarantine.was == DROPPED else quarantine
    return replace(quarantine, was=DROPPED) if quarantine.was == TRAINED else quarantine


def replay(entries: Iterable[Fact]) -> RunState:
    """The state after all entries."""
    state = RunState()
    for entry in entries:
        state.apply(entry)
    return state
