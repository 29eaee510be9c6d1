"""Whom a forget touches, what must be removed, and what it will cost."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from taft_ray.errors import UnknownSample, UsageError
from taft_ray.plans.state import DROPPED, RunState

MODES = ("drop", "retrain", "resolve")


@dataclass(frozen=True, kw_only=True)
class ForgetPlan:
    """A request: which samples go (new ones only) and which shards saw them."""

    request: str
    mode: str
    hashes: tuple[str, ...]  # id hashes, sorted
    keys: tuple[bytes, ...]  # sample keys to purge, sorted
    shards: tuple[int, ...]
    retrain: tuple[int, ...]  # shards to fit again afterwards


@dataclass(frozen=True, kw_only=True)
class Known:
    """What the manifest says of a sample."""

    key: bytes
    shard: int


def plan_forget(
    state: RunState, *, mode: str, hashes: Mapping[str, str], found: Mapping[str, Known]
) -> ForgetPlan | str:
    """The plan of a forget, or the request whose certificate already answers it.

    hashes: id -> id hash, for every id asked. found: id -> what the manifest has of it.

    UnknownSample names ids that are neither in the manifest nor forgotten. A retrain of ids that were forgotten by drop
    brings their shards back without them.
    """
    if mode not in MODES:
        raise UsageError(f"mode={mode!r}: expected one of {', '.join(MODES)}")
    if not hashes:
        raise UsageError("no ids were given; expected a comma-separated list or @file with one id a line")
    unknown = [name for name, digest in hashes.items() if name not in found and digest not in state.tombstones]
    if unknown:
        shown = ", ".join(repr(name) for name in unknown[:5]) + (f" and {len(unknown) - 5} more" if unknown[5:] else "")
        raise UnknownSample(f"{len(unknown)} ids are not in this run: {shown}; nothing was forgotten")
    asked = tuple(sorted(set(hashes.values())))
    request = request_id(mode, asked)
    if request in state.requests:
        return request
    earlier = sorted({state.tombstones[digest] for name, digest in hashes.items() if name not in found})
    fresh = {name: known for name, known in found.items() if hashes[name] not in state.tombstones}
    waiting = {
        shard for name in earlier for shard in state.requests[name].shards if state.shards[shard].state == DROPPED
    }
    if not fresh and not (mode == "retrain" and waiting):
        return earlier[0]
    shards = {known.shard for known in fresh.values()}
    if mode == "retrain":
        shards |= waiting
    return ForgetPlan(
        request=request,
        mode=mode,
        hashes=tuple(sorted(hashes[name] for name in fresh)),
        keys=tuple(sorted(known.key for known in fresh.values())),
        shards=tuple(sorted(shards)),
        retrain=tuple(sorted(shards)) if mode == "retrain" else (),
    )


def request_id(mode: str, hashes: Sequence[str]) -> str:
    """The same request has the same id, so that asking twice does it once."""
    return hashlib.blake2b("\n".join([mode, *hashes]).encode(), digest_size=8).hexdigest()


def estimate(state: RunState, plan: ForgetPlan, *, bytes_to_purge: int) -> dict[str, Any]:
    """What a forget will take, from this run's own measurements. Seconds are None where nothing was measured yet."""
    samples = {shard: state.shards[shard].samples for shard in plan.shards}
    measured = [shard for shard in state.shards.values() if shard.facts.get("seconds") and shard.facts.get("samples")]
    rate = (
        sum(shard.facts["seconds"] for shard in measured) / sum(shard.facts["samples"] for shard in measured)
        if measured
        else None
    )
    left = sum(samples.values()) - len(plan.keys)
    return {
        "mode": plan.mode,
        "samples_to_forget": len(plan.keys),
        "shards": list(plan.shards),
        "samples_to_retrain": left if plan.mode == "retrain" else 0,
        "seconds": None if rate is None else (rate * left if plan.mode == "retrain" else 0.0),
        "bytes_to_purge": bytes_to_purge,
    }
