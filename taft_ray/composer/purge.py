"""Removing all that saw a sample.

Its cache rows, the deltas of its shards, and checkpoints from its slice on are removed. So are the monolith, snapshots, and
evaluation caches that hold it.

First the cache is written anew beside the old one (`rewrite`). A commit makes that the one that holds, and begins the touched
shards' next generation. Then what is of the generations before is removed here.

Guarantees: idempotent. Removals are decided by listing, older versions too. So the leftovers of an interrupted purge, or of a
killed worker, in a touched shard go as well. At every instant the manifest that the ledger commits to names only parts that
exist. Two purges at once, or one that wakes up late, remove nothing that is or will be named.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence, Set
from dataclasses import replace
from typing import TypeVar

import pyarrow as pa

from taft_ray.data.columns import has_text
from taft_ray.errors import IntegrityError, StorageError
from taft_ray.plans.facts import Dropped, ObjectRef, Purge, Purged, Removed, StartPurged
from taft_ray.plans.state import RequestState, RunState
from taft_ray.prefix.rejections import remove_lists
from taft_ray.run.quarantine import damaged_objects
from taft_ray.storage import Manifest, Store, read_manifest
from taft_ray.storage import rundir as names

P = TypeVar("P", bound=Purge)

_MORE_ERASURES = 2  # of what is listed after its deletion


def keys_of(table: pa.Table, hashes: Collection[str]) -> dict[bytes, int]:
    """The sample keys of these id hashes in a manifest, and the shard of each (-1: rejected)."""
    rows = table.filter(has_text(table["id_hash"], sorted(hashes)))
    return dict(zip(rows["key"].to_pylist(), rows["shard"].to_pylist(), strict=True))


def purge_request(store: Store, state: RunState, request: RequestState, manifest: Manifest | None) -> Purged:
    """Remove what the request's rewrite doomed, and what a worker or a killed process has left there since."""
    rewritten = request.rewritten
    assert rewritten is not None
    digests = {one.key: one.digest for one in rewritten.removing}
    doomed = sorted({*digests, *dead(store, state, request, manifest, state.checkpoint_keys())})
    removed = remove(store, doomed, digests, Purged, request.request)
    remove_lists(store)
    store.sweep(
        older_than_s=60.0
    )  # what dead writers left; of remote uploads, younger ones may be another process at work
    return replace(removed, manifest=rewritten.manifest)


def dead(
    store: Store,
    state: RunState,
    request: RequestState,
    manifest: Manifest | None,
    checkpoints: Set[str],
    ahead: int = 0,
) -> list[str]:
    """The keys that nobody names in the touched shards and beside them, of generations that are over.

    Nothing of an older generation can be committed any more, so this stays true however late it is acted on. A delta of the
    current generation, or a part of the next, may belong to another process at work. With ``ahead`` = 1: as it will be once
    the request's rewrite is committed.
    """
    named: set[str] = set()
    if manifest is not None:
        parts = manifest.parts_of(request.shards)
        named = {part["key"] for refs in parts.values() for part in refs} | manifest.keys
    needed = state.delta_keys() | (state.start_keys() if request.mode == "resolve" else set())
    dead: list[str] = []
    for number in request.shards:
        current = state.shards[number].current + ahead
        if manifest is not None:
            listed = store.traces(f"{names.shard_prefix(number)}/")
            dead += [key for key in listed if key not in named and names.part_generation(key) <= current]
        dead += _old_deltas(store, number, current, needed)
        listed = store.traces(f"{names.checkpoint_folder(number)}/")
        dead += [key for key in listed if key not in checkpoints and names.part_generation(key) < current]
        dead += _old_noise(store, number, current)
    if manifest is not None:
        version = state.rewrites + ahead
        listed = store.traces(names.MANIFEST_ROWS)
        dead += [key for key in listed if key not in named and names.manifest_version(key) <= version]
    monoliths = store.traces(f"{names.MONOLITH_FOLDER}/")
    dead += [key for key in monoliths if names.delta_generation(key) <= state.rewrites + ahead]
    return [*dead, *store.traces(f"{names.COMPOSED_FOLDER}/")]


def purge_leftovers(store: Store, state: RunState, manifest: Manifest) -> list[str]:
    """Remove the parts, rows and deltas of generations that are over; their keys.

    A prefix pass that went on while another committed the cache, and a worker that was killed, leave such.
    """
    named = {part["key"] for part in manifest.refs} | manifest.keys
    named |= state.delta_keys() | state.start_keys() | state.checkpoint_keys()
    current = {f"{number:05d}": shard.current for number, shard in state.shards.items()}
    dead = [key for key in store.traces(names.MANIFEST_ROWS) if names.manifest_version(key) <= state.rewrites]
    for folder, generation_of, ahead in (
        (names.CACHE_FOLDER, names.part_generation, 0),
        (names.DELTAS_FOLDER, names.delta_generation, 1),
        (names.CHECKPOINTS_FOLDER, names.part_generation, 1),
        (names.NOISE_FOLDER, names.noise_generation, 1),
    ):
        for key in store.traces(f"{folder}/shard="):
            number = key.removeprefix(f"{folder}/shard=").partition("/")[0]
            if generation_of(key) + ahead <= current.get(number, 0):
                dead.append(key)
    dead = [key for key in dead if key not in named]
    monoliths = store.traces(f"{names.MONOLITH_FOLDER}/")
    dead += [key for key in monoliths if key not in named and names.delta_generation(key) <= state.rewrites]
    store.erase(dead)
    return dead


def purge_starts(store: Store, state: RunState, request: RequestState) -> StartPurged:
    """Remove the deltas that a resolve started from, and whatever else of its shards' earlier generations is left."""
    digests = {ref.key: ref.digest for ref in dropped_by(request).starts.values()}
    needed = state.delta_keys()
    old = [key for number in request.shards for key in _old_deltas(store, number, state.shards[number].current, needed)]
    return remove(store, [*digests, *old], digests, StartPurged, request.request)


def dropped_by(request: RequestState) -> Dropped:
    """The deltas that a request took out of the model; none where its purge was asked for without a drop."""
    return request.dropped or Dropped(request.request, ())


def remove(store: Store, doomed: Sequence[str], digests: Mapping[str, str | None], kind: type[P], request: str) -> P:
    """Remove objects with their older versions, and list them again; StorageError when one is still there.

    A prefix pass that began before the request may write a part once more, under the same name, while this goes on: so again.
    """
    erased = store.erase(doomed)
    still = store.remaining(doomed)
    for _ in range(_MORE_ERASURES):
        if still and erased.beyond is None:
            again = store.erase(doomed)
            erased = replace(again, versions=erased.versions + again.versions)
            still = store.remaining(doomed)
    if still and erased.beyond is None:
        raise StorageError(f"{still[:4]} are still listed after their deletion at {store.uri}; run the forget again")
    removed = tuple(Removed(key, digests.get(key)) for key in sorted(set(doomed)))
    return kind(request, removed, tuple(still), erased.versions, erased.beyond)


def _old_deltas(store: Store, shard: int, current: int, needed: Set[str]) -> list[str]:
    listed = store.traces(f"{names.delta_folder(shard)}/")
    return [key for key in listed if key not in needed and names.delta_generation(key) < current]


def _old_noise(store: Store, shard: int, current: int) -> list[str]:
    """The keys of noise of generations that are over: without them nobody can take the noise off what was released."""
    return [key for key in store.traces(f"{names.noise_folder(shard)}/") if names.noise_generation(key) < current]


def evaluation_caches(store: Store, hashes: Collection[str]) -> list[str]:
    """The objects of every evaluation cache that holds one of these samples; it is made again without them when needed."""
    # one without a manifest is the leftover of a killed pass, or damaged: nobody knows what it holds
    return _evaluation_caches(
        store,
        lambda found: found is None or "id_hash" not in found.table.column_names or bool(keys_of(found.table, hashes)),
    )


def damaged_evaluation_caches(store: Store) -> list[str]:
    """The objects of every evaluation cache that cannot be read whole."""

    def damaged(found: Manifest | None) -> bool:
        return found is None or bool(damaged_objects(store, map(ObjectRef.from_json, found.refs)))

    return _evaluation_caches(store, damaged)


def _evaluation_caches(store: Store, doomed: Callable[[Manifest | None], bool]) -> list[str]:
    listed = store.traces(f"{names.EVAL_FOLDER}/")
    keys = []
    for folder in sorted({"/".join(key.split("/")[:2]) for key in listed}):
        try:
            found = read_manifest(store.inside(folder))
        except IntegrityError:
            found = None
        if doomed(found):
            keys += [key for key in listed if key.startswith(f"{folder}/")]
    return keys
