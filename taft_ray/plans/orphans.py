"""Objects in a run's folder that nothing refers to: leftovers of a killed process, or something that should be gone."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from taft_ray.plans.state import PENDING, RunState
from taft_ray.storage import rundir as names

_ALWAYS = ("run.json", "keys/id.key", "manifest/_MANIFEST.json", names.WHITENING_KEY)
_LEDGER = re.compile(r"ledger/\d{20}\.json")
_APART = ("reports/", "eval/")  # what reports are made of is in the ledger; evaluation caches have own manifests
_PASS = ("cache/", "base/", "manifest/")  # what the prefix pass writes before it commits


def referred_to(
    state: RunState, parts: Mapping[str, Any], composed: Collection[str], manifest: Collection[str]
) -> set[str]:
    """Every key that the ledger or the manifest names.

    parts: the manifest's, by shard. composed: the current snapshots. manifest: the keys of its own objects.
    """
    wanted: set[str] = {part["key"] for refs in parts.values() for part in refs} | set(composed) | set(manifest)
    wanted |= state.noise_keys()
    wanted |= state.delta_keys() | state.start_keys() | state.checkpoint_keys() | state.quarantined_keys()
    wanted |= {request.forgotten.certificate.key for request in state.requests.values() if request.forgotten}
    wanted |= {request.signed.key for request in state.requests.values() if request.signed}
    if state.cached is not None and state.cached.base is not None:
        wanted.add(state.cached.base.key)
    return wanted


def orphans(
    keys: Iterable[str], state: RunState, parts: Mapping[str, Any], composed: Collection[str], manifest: Collection[str]
) -> list[str]:
    """Keys of deltas, checkpoints, cache parts, snapshots, manifests and certificates that ledger and manifest do not name."""
    wanted = referred_to(state, parts, composed, manifest)
    folders = ("deltas/", "checkpoints/", "composed/", "certificates/", "manifest/rows-", f"{names.NOISE_FOLDER}/")
    watched = (*folders, "cache/") if state.cached is not None else folders
    return [key for key in keys if key.startswith(watched) and key not in wanted and not in_flight(key, state)]


def in_flight(key: str, state: RunState) -> bool:
    """Whether a process at work may have written this and be about to commit it.

    This holds for a cache part of the next generation, or rows of the next version, while a rewrite or a repair is waited for.
    It holds for a delta or a checkpoint of the current generation while a fit is waited for. It holds for a certificate of a
    request that is not concluded.
    """
    open_ones = [request for request in state.requests.values() if request.forgotten is None]
    if key.startswith(names.MANIFEST_ROWS):
        waited = any(r.rewritten is None for r in open_ones) or bool(state.quarantined) or state.adding is not None
        return names.manifest_version(key) > state.rewrites and waited
    if key.startswith(f"{names.CERTIFICATES_FOLDER}/"):
        return any(key.startswith(f"{names.CERTIFICATES_FOLDER}/{r.request}-") for r in open_ones)
    number = names.shard_of(key)
    shard = None if number is None else state.shards.get(number)
    if shard is None:  # one of data that is being read in
        adding = state.adding
        return adding is not None and number in range(adding.first, adding.first + adding.shards)
    touching = [request for request in open_ones if shard.shard in request.shards]
    if key.startswith(f"{names.CACHE_FOLDER}/"):
        waited = any(r.rewritten is None for r in touching) or shard.quarantine is not None
        return names.part_generation(key) == shard.current + 1 and waited
    waited = shard.state == PENDING or any(r.mode != "drop" for r in touching)
    checkpoint = key.startswith(f"{names.CHECKPOINTS_FOLDER}/")
    generation = names.part_generation(key) if checkpoint else names.delta_generation(key)  # a noise key is named alike
    return shard.delta is None and waited and generation == shard.current


def strangers(
    keys: Iterable[str], state: RunState, parts: Mapping[str, Any], composed: Collection[str], manifest: Collection[str]
) -> list[str]:
    """Keys that are no part of a run at all and no leftover either: nobody but a person knows what they are."""
    known = referred_to(state, parts, composed, manifest) | {*_ALWAYS}
    apart = _APART if state.cached is not None else (*_APART, *_PASS)
    apart = (*apart, *(f"{names.SERVING_FOLDER}/{serving}/" for serving in state.servings))  # notes of replicas
    left = [
        key
        for key in keys
        if key not in known
        and not key.startswith(apart)
        and not in_flight(key, state)
        and not _LEDGER.fullmatch(key)
        and names.outcome_of(key) is None
    ]
    leftovers = {*orphans(left, state, parts, composed, manifest)}
    return [key for key in left if key not in leftovers]
