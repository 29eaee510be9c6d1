"""The contents of the cache, told by the parts themselves. Needed where the manifest, which names them, cannot be read."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pyarrow as pa

from taft_ray.errors import IntegrityError
from taft_ray.plans.state import RunState
from taft_ray.storage import MALFORMED, Store, digest_bytes
from taft_ray.storage import rundir as names


def cached_parts(
    store: Store, state: RunState, shards: Collection[int] | None = None
) -> dict[int, list[dict[str, Any]]]:
    """The parts of these shards (of all), each of its latest generation: PartRef JSON with "part" and "keys".

    IntegrityError for a part that cannot be read.
    """
    found: dict[int, dict[int, tuple[int, str]]] = {}
    for info in store.list(f"{names.CACHE_FOLDER}/"):
        where = names.part_of(info.key)
        if where is None or where[0] not in state.shards or (shards is not None and where[0] not in shards):
            continue
        shard, part = where
        generation = names.part_generation(info.key)
        if generation <= state.shards[shard].current:
            known = found.setdefault(shard, {})
            known[part] = max(known.get(part, (0, "")), (generation, info.key))
    return {
        shard: [_read(store, key, part) for part, (_, key) in sorted(known.items())]
        for shard, known in sorted(found.items())
    }


def _read(store: Store, key: str, part: int) -> dict[str, Any]:
    data = store.read(key)
    try:
        batch = pa.ipc.open_file(pa.py_buffer(data)).get_batch(0)
        keys = batch.column("key").to_pylist()
    except (pa.ArrowException, OSError, *MALFORMED) as error:
        raise IntegrityError(
            f"{key} in {store.uri} is damaged, and so is the list of samples ({error}); restore one of them from a copy"
        ) from error
    return {"key": key, "digest": digest_bytes(data), "rows": len(keys), "bytes": len(data), "part": part, "keys": keys}
