"""What is true of a run: the fold of its ledger's entries.

Kinds of entries, and the facts they commit:
    created             the spec's digest and the environment
    cached              the manifest's digest, samples a shard, counts and times of the prefix pass
    trained             a shard's delta of one generation
    monolith-trained    the comparison model over everything
    training-finished   wall clock of a training pass
    forget-requested    a forget: hashes of ids, mode, shards (tombstones from here on)
    dropped             the shards of a request left the sums
    purged              what was removed, and the manifest after it
    forgotten           the certificate's digest
    evaluated           an accuracy
    composed            how long a composition took, and its digest
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

PENDING, TRAINED, DROPPED, EMPTY = "pending", "trained", "dropped", "empty"


class Fact(Protocol):
    """A ledger entry, as far as decisions need it."""

    @property
    def kind(self) -> str: ...
    @property
    def time(self) -> str: ...
    @property
    def body(self) -> dict[str, Any]: ...


@dataclass
class ShardState:
    shard: int
    samples: int = 0
    generation: int = 0  # of the last delta; 0: never trained
    state: str = PENDING
    delta: Mapping[str, Any] | None = None  # a DeltaRef as JSON, while the shard is in the model
    weight: int = 0
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class RequestState:
    request: str
    mode: str
    hashes: tuple[str, ...]
    shards: tuple[int, ...]
    time: str
    composed_before: str | None
    started: float = 0.0
    dropped: Mapping[str, Any] | None = None
    purged: Mapping[str, Any] | None = None
    forgotten: Mapping[str, Any] | None = None


@dataclass
class RunState:
    shards: dict[int, ShardState] = field(default_factory=dict)
    requests: dict[str, RequestState] = field(default_factory=dict)
    tombstones: dict[str, str] = field(default_factory=dict)  # id hash -> the request that forgot it
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

    def apply(self, entry: Fact) -> None:
        """Fold one more entry in."""
        body = entry.body
        match entry.kind:
            case "created":
                self.created, self.created_time = body, entry.time
            case "cached":
                self.cached = body
                for number, samples in enumerate(body["samples"]):
                    self.shards[number] = ShardState(number, samples, state=PENDING if samples else EMPTY)
            case "trained":
                shard = self.shards[body["shard"]]
                shard.generation, shard.samples, shard.weight = body["generation"], body["samples"], body["weight"]
                shard.delta, shard.facts, shard.state = body["delta"], body["facts"], TRAINED
                self.fits.append(body)
            case "monolith-trained":
                self.monolith = body
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
                if self.monolith is not None and self.monolith.get("delta") is not None:
                    self.monolith = {**self.monolith, "delta": None}
            case "purged":
                self.requests[body["request"]].purged = body
                for number, samples in body["samples"].items():
                    shard = self.shards[int(number)]
                    shard.samples = samples
                    if not samples:
                        shard.state = EMPTY
            case "forgotten":
                self.requests[body["request"]].forgotten = body
            case "evaluated":
                self.evaluations.append({**body, "time": entry.time})
            case "composed":
                self.compositions.append({**body, "time": entry.time})
            case other:
                raise ValueError(f"unknown ledger entry {other!r}: made by a newer taft_ray")

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
        )
        self.requests[request.request] = request
        for digest in request.hashes:
            self.tombstones.setdefault(digest, request.request)


def replay(entries: Iterable[Fact]) -> RunState:
    """The state after all entries."""
    state = RunState()
    for entry in entries:
        state.apply(entry)
    return state
