"""Data that was added to a run: its facts, and where samples may be once there are some.

An addition has shards of its own, behind those that the run had. So nothing that is there is read or written again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from taft_ray.data import assign
from taft_ray.plans.fact import Fact


@dataclass(frozen=True)
class AdditionBegun(Fact):
    """Data is being read in, as so many shards from `first` on; the latest of these facts holds, until an `Added` follows.

    number: how many began before it.
    """

    KIND = "addition-begun"
    data: str
    first: int
    shards: int
    number: int


@dataclass(frozen=True)
class Added(Fact):
    """A finished prefix pass over more data. samples: per shard, from `first` on. classes: all there are now.

    base: the key of the manifest that this one continues. requests: how many the run had then.

    Rows of the data that are left out: known, which the run had already, and forgotten. Times in seconds; started and ended
    are unix times.
    """

    KIND = "added"
    data: str
    first: int
    samples: tuple[int, ...]
    classes: tuple[str, ...]
    manifest: str
    manifest_key: str
    base: str
    counts: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    prefix_seconds: float = 0.0
    started: float = 0.0
    ended: float = 0.0
    images: int = 0
    bytes: int = 0
    known: int = 0
    forgotten: int = 0
    requests: int = 0

    @property
    def shards(self) -> range:
        """The numbers of its shards."""
        return range(self.first, self.first + len(self.samples))


def shards_of_keys(keys: Sequence[bytes], shards: int, additions: Sequence[Added]) -> list[tuple[int, ...]]:
    """The shards in which each sample is, where it is in the run at all and assignment is by hash: one per addition.

    shards: how many the run began with.
    """
    if not keys:
        return []
    began = [(0, shards), *((one.first, len(one.samples)) for one in additions)]
    placed = [first + assign(keys, shards=count, method="hash") for first, count in began]
    return [tuple(int(one[at]) for one in placed) for at in range(len(keys))]


def counts_of(first: Mapping[str, Any], additions: Sequence[Added]) -> dict[str, Any]:
    """The counts of a run's rows as they were read in, with those of what was added. first: of the data it began with."""
    total = dict(first)
    for one in additions:
        for name in ("rows", "kept", "rejected"):
            total[name] = total.get(name, 0) + one.counts.get(name, 0)
        reasons = Counter(total.get("reasons", {})) + Counter(one.counts.get("reasons", {}))
        total["reasons"] = dict(sorted(reasons.items()))
    return total


def source_of(shard: int, data: str, additions: Collection[Added]) -> str:
    """The data that a shard was read from. data: what the run began with."""
    return next((one.data for one in additions if shard in one.shards), data)
