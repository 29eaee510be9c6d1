"""Removing what saw a sample: its cache rows, the deltas of its shards, the monolith, every snapshot.

Guarantees: idempotent; what is removed is decided by listing, so that the leftovers of an interrupted purge (or of a
killed worker) in a touched shard go too; at every instant the manifest names only parts that exist.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence, Set
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from taft_ray.errors import ObjectMissing, StorageError
from taft_ray.plans.state import RequestState, RunState
from taft_ray.storage import PartRef, Store, read_manifest, rewrite_part, write_manifest
from taft_ray.storage import rundir as names


def pending_key(request: str) -> str:
    """Where the sample keys of a request wait until they are purged; the ledger never has them."""
    return f"requests/{request}.json"


def save_pending(store: Store, request: str, keys: Sequence[bytes]) -> None:
    store.write(pending_key(request), json.dumps(sorted(key.hex() for key in keys)).encode())


def load_pending(store: Store, request: str) -> set[bytes]:
    try:
        return {bytes.fromhex(key) for key in json.loads(store.read(pending_key(request)))}
    except ObjectMissing:
        return set()  # an earlier purge finished with the cache: only listings are left to do


def purge_request(store: Store, state: RunState, request: RequestState) -> dict[str, Any]:
    """Purge; returns {"removed": [{"key", "digest"|None}], "still_listed": [], "manifest": digest, "samples": {…}}."""
    keys = load_pending(store, request.request)
    digests: dict[str, str] = {}
    for delta in (request.dropped or {}).get("deltas", []):
        digests[delta["key"]] = delta["digest"]
    described, samples = _purge_cache(store, request.shards, keys, digests)
    kept = {part["key"] for parts in described["meta"]["parts"].values() for part in parts}
    doomed = []
    for shard in request.shards:
        doomed += [i.key for i in store.list(f"{names.shard_prefix(shard)}/") if i.key not in kept]
        in_model = (state.shards[shard].delta or {}).get("key")
        doomed += [i.key for i in store.list(f"{names.delta_folder(shard)}/") if i.key != in_model]
    doomed += [i.key for i in store.list(f"{names.MONOLITH_FOLDER}/")]
    doomed += [i.key for i in store.list(f"{names.COMPOSED_FOLDER}/")]
    for key in doomed:
        store.delete(key)
    store.sweep(older_than_s=60.0)  # younger ones may be another process at work
    still = [i.key for i in store.list() if i.key in set(doomed)]
    if still:
        raise StorageError(f"{still[:4]} are still listed after their deletion at {store.uri}; run the forget again")
    store.delete(pending_key(request.request))
    return {
        "removed": [{"key": key, "digest": digests.get(key)} for key in sorted(doomed)],
        "still_listed": still,
        "manifest": described["digest"],
        "samples": {str(shard): samples[shard] for shard in request.shards},
    }


def _purge_cache(
    store: Store, shards: Sequence[int], keys: Set[bytes], digests: dict[str, str]
) -> tuple[Mapping[str, Any], dict[int, int]]:
    """Rewrite the parts and the manifest without ``keys``; fills ``digests`` with those of the parts replaced."""
    found = read_manifest(store)
    if found is None:
        raise StorageError(f"{store.uri} has no manifest; nothing can be purged from it")
    table, described = found
    meta = dict(described["meta"])
    parts = {shard: list(refs) for shard, refs in meta["parts"].items()}
    for shard in shards:
        renewed = []
        for ref in parts.get(str(shard), []):
            digests[ref["key"]] = ref["digest"]
            new = rewrite_part(
                store,
                names.shard_prefix(shard),
                ref["part"],
                PartRef.from_json(ref),
                drop=keys,
                fingerprint=meta["fingerprint"],
            )
            if new is not None:
                renewed.append({**new.to_json(), "part": ref["part"]})
        parts[str(shard)] = renewed
    meta["parts"] = parts
    gone = pc.is_in(table["key"], value_set=pa.array(sorted(keys), pa.binary(16)))  # type: ignore[attr-defined]
    table = table.filter(pc.invert(gone))  # type: ignore[attr-defined]  # pyarrow makes its functions at import
    described = write_manifest(store, table, meta)
    counts = {shard: sum(ref["rows"] for ref in parts.get(str(shard), [])) for shard in shards}
    return described, counts
