"""Removing what saw a sample: its cache rows, the deltas of its shards, checkpoints from its slice on, the monolith, snapshots, evaluation caches that hold it.

Guarantees: idempotent; what is removed is decided by listing (older versions too), so that the leftovers of an interrupted
purge, or of a killed worker, in a touched shard go as well; at every instant the manifest names only parts that exist.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence, Set
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from taft_ray.errors import StorageError
from taft_ray.plans.slices import Survival, after_loss, lost_slices
from taft_ray.plans.spec import RunSpec
from taft_ray.plans.state import RequestState, RunState
from taft_ray.storage import PartRef, Store, read_manifest, rewrite_part, write_manifest
from taft_ray.storage import rundir as names

Manifest = tuple[pa.Table, Mapping[str, Any]]


def keys_of(table: pa.Table, hashes: Collection[str]) -> dict[bytes, int]:
    """The sample keys of these id hashes in a manifest, and the shard of each (-1: rejected)."""
    gone = pc.is_in(table["id_hash"], value_set=pa.array(sorted(hashes), pa.string()))  # type: ignore[attr-defined]
    rows = table.filter(gone)
    return dict(zip(rows["key"].to_pylist(), rows["shard"].to_pylist(), strict=True))


def slices_lost(manifest: Manifest, request: RequestState, spec: RunSpec) -> dict[str, list[int]]:
    """The slices of each shard that lose a sample by this request."""
    lost = {key: shard for key, shard in keys_of(manifest[0], request.hashes).items() if shard >= 0}
    return lost_slices(lost, slices=spec.slices, seed=spec.seed)


def purge_request(store: Store, state: RunState, request: RequestState, manifest: Manifest | None) -> dict[str, Any]:
    """Purge what a request forgets, everything but the deltas that a resolve under way starts from.

    Returns {"removed": [{"key", "digest"|None}], "still_listed": [], "older_versions": n, "beyond_reach": text|None,
    "manifest": digest|None, "samples": {shard: how many are left}, "checkpoints": {shard: [the slice checkpoints that stay]}}.
    """
    digests = {ref["key"]: ref["digest"] for ref in (request.dropped or {}).get("deltas", [])}
    doomed: list[str] = []
    described, samples = None, {}
    if manifest is not None:
        keys = set(keys_of(manifest[0], request.hashes))
        described, samples = _purge_cache(store, manifest, request.shards, keys, digests)
        kept = {part["key"] for parts in described["meta"]["parts"].values() for part in parts}
        for shard in request.shards:
            doomed += [key for key in store.traces(f"{names.shard_prefix(shard)}/") if key not in kept]
        doomed += [key for key in store.traces(names.MANIFEST_ROWS) if key != described["key"]]
        doomed += _evaluation_caches(store, request.hashes)
    needed = state.delta_keys() | (state.start_keys() if request.mode == "resolve" else set())
    doomed += _deltas(store, request.shards, needed)
    survivals = {shard: _survival(state, request, shard, samples.get(shard)) for shard in request.shards}
    for shard, survival in survivals.items():
        digests |= {ref["key"]: ref["digest"] for ref in survival.purged}
        stay = {ref["key"] for ref in survival.kept}
        doomed += [key for key in store.traces(f"{names.checkpoint_folder(shard)}/") if key not in stay]
    # one that is recorded was trained after a forget whose purge is only done again
    doomed += [key for key in store.traces(f"{names.MONOLITH_FOLDER}/") if key not in needed]
    doomed += store.traces(f"{names.COMPOSED_FOLDER}/")
    body = remove(store, doomed, digests)
    store.sweep(older_than_s=60.0)  # younger ones may be another process at work
    return {
        **body,
        "manifest": described and described["digest"],
        "samples": {str(shard): samples[shard] for shard in request.shards if shard in samples},
        "checkpoints": {
            str(shard): [dict(ref) for ref in survival.kept]
            for shard, survival in survivals.items()
            if survival.kept or survival.purged
        },
    }


def _survival(state: RunState, request: RequestState, shard: int, left: int | None) -> Survival:
    """What becomes of a shard's checkpoints; left: its samples after the purge."""
    known = (request.dropped or {}).get("slices")
    # a shard that is empty, or of which nobody wrote down what it loses, keeps none: as if slice 0 had lost a sample
    lost = {0} if known is None or left == 0 else known.get(str(shard), ())
    return after_loss(state.shards[shard].checkpoints if shard in state.shards else (), lost)


def purge_starts(store: Store, state: RunState, request: RequestState) -> dict[str, Any]:
    """Remove the deltas that a resolve started from, and whatever else of its shards is not in the model."""
    digests = {ref["key"]: ref["digest"] for ref in (request.dropped or {}).get("starts", {}).values()}
    return remove(store, _deltas(store, request.shards, state.delta_keys()), digests)


def remove(store: Store, doomed: Sequence[str], digests: Mapping[str, str]) -> dict[str, Any]:
    """Remove objects with their older versions, and list them again; StorageError when one is still there."""
    erased = store.erase(doomed)
    still = store.remaining(doomed)
    if still and erased.beyond is None:
        raise StorageError(f"{still[:4]} are still listed after their deletion at {store.uri}; run the forget again")
    return {
        "removed": [{"key": key, "digest": digests.get(key)} for key in sorted(set(doomed))],
        "still_listed": still,
        "older_versions": erased.versions,
        "beyond_reach": erased.beyond,
    }


def _deltas(store: Store, shards: Sequence[int], needed: Set[str]) -> list[str]:
    held = [key for shard in shards for key in store.traces(f"{names.delta_folder(shard)}/")]
    return [key for key in held if key not in needed]


def _evaluation_caches(store: Store, hashes: Collection[str]) -> list[str]:
    """The objects of every evaluation cache that holds one of these samples; it is made again without them when needed."""
    doomed = []
    listed = store.traces(f"{names.EVAL_FOLDER}/")
    for folder in sorted({"/".join(key.split("/")[:2]) for key in listed}):
        found = read_manifest(store.inside(folder))
        # one without a manifest is the leftover of a killed pass: nobody knows what it holds
        if found is None or "id_hash" not in found[0].column_names or keys_of(found[0], hashes):
            doomed += [key for key in listed if key.startswith(f"{folder}/")]
    return doomed


def _purge_cache(
    store: Store, manifest: Manifest, shards: Sequence[int], keys: Set[bytes], digests: dict[str, str]
) -> tuple[Mapping[str, Any], dict[int, int]]:
    """Rewrite the parts and the manifest without ``keys``; fills ``digests`` with those of the parts replaced."""
    table, described = manifest
    meta = dict(described["meta"])
    parts = {shard: list(refs) for shard, refs in meta["parts"].items()}
    for shard in shards:
        renewed = []
        for ref in parts.get(str(shard), []):
            new = rewrite_part(
                store,
                names.shard_prefix(shard),
                ref["part"],
                PartRef.from_json(ref),
                drop=keys,
                fingerprint=meta["fingerprint"],
            )
            if new is None or new.key != ref["key"]:
                digests[ref["key"]] = ref["digest"]
            if new is not None:
                renewed.append({**new.to_json(), "part": ref["part"]})
        parts[str(shard)] = renewed
    meta["parts"] = parts
    gone = pc.is_in(table["key"], value_set=pa.array(sorted(keys), pa.binary(16)))  # type: ignore[attr-defined]
    table = table.filter(pc.invert(gone))  # type: ignore[attr-defined]  # pyarrow makes its functions at import
    if keys:
        digests[described["key"]] = described["digest"]
    described = write_manifest(store, table, meta)
    counts = {shard: sum(ref["rows"] for ref in parts.get(str(shard), [])) for shard in shards}
    return described, counts
