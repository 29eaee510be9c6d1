"""Ledger entries for the tests of decisions, without a ledger."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Entry:
    kind: str
    body: dict[str, Any] = field(default_factory=dict)
    time: str = "2026-01-01T00:00:00+00:00"


def delta_ref(shard: int, generation: int) -> dict[str, Any]:
    return {
        "key": f"deltas/shard={shard:05d}/{generation}-d.safetensors",
        "digest": f"d{shard}.{generation}",
        "bytes": 8,
    }


def created() -> Entry:
    return Entry("created", {"spec": "s", "environment": {}})


def cached(samples: Sequence[int]) -> Entry:
    return Entry(
        "cached",
        {"samples": list(samples), "manifest": "m", "manifest_key": "manifest/rows-m.parquet", "classes": ["a", "b"]},
    )


def trained(shard: int, samples: int, generation: int = 1, seconds: float = 2.0) -> Entry:
    facts = {"seconds": seconds, "samples": samples}
    body = {"shard": shard, "generation": generation, "samples": samples, "weight": 1, "facts": facts}
    return Entry("trained", {**body, "delta": delta_ref(shard, generation)})


def requested(request: str, mode: str, hashes: Sequence[str], shards: Sequence[int]) -> Entry:
    body = {"request": request, "mode": mode, "hashes": list(hashes), "shards": list(shards)}
    return Entry("forget-requested", {**body, "composed_before": "before", "started": 1.0})


def forget_entries(request: str, mode: str, hashes: Sequence[str], left: Mapping[int, int]) -> list[Entry]:
    """A forget up to its purge; left: samples that remain in each touched shard."""
    return [
        requested(request, mode, hashes, list(left)),
        Entry("dropped", {"request": request, "deltas": [], "seconds": 0.0}),
        Entry(
            "rewritten",
            {
                "request": request,
                "manifest": "m2",
                "manifest_key": "manifest/rows-000001-m2.parquet",
                "samples": {str(s): n for s, n in left.items()},
                "removing": [],
            },
        ),
        Entry("purged", {"request": request, "removed": [], "manifest": "m2"}),
    ]


def forgotten(request: str) -> Entry:
    key = f"certificates/{request}.json"
    return Entry("forgotten", {"request": request, "certificate": {"key": key, "digest": "c"}, "composed_after": "a"})
