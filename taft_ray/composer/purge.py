"""Removing what saw a sample: its cache rows, the deltas of its shards, checkpoints from its slice on, the monolith, snapshots, evaluation caches that hold it.

First the cache is written anew beside the old one, then a commit makes that the one that holds and begins the touched shards'
next generation, then what is of the generations before is removed.

Guarantees: idempotent; what is removed is decided by listing (older versions too), so that the leftovers of an interrupted
purge, or of a killed worker, in a touched shard go as well; at every instant the manifest that the ledger commits to names
only parts that exist; two purges at once, or one that wakes up late, remove nothing that is or will be named.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from taft_ray.data.columns import has_key, has_text
from taft_ray.errors import IntegrityError, ObjectMissing, StorageError
from taft_ray.plans.facts import Dropped, LostPart, ObjectRef, Purge, Purged, Removed, Rewritten, StartPurged
from taft_ray.plans.slices import Survival, after_loss, lost_slices
from taft_ray.plans.spec import RunSpec
from taft_ray.plans.state import SUBTRACT, TRAINED, RequestState, RunState
from taft_ray.prefix.rejections import remove_lists
from taft_ray.prefix.tokens_lost import lost_rows, without_tokens
from taft_ray.run.quarantine import ShardUnreadable, damaged_objects
from taft_ray.run.rows import terms_of, write_record
from taft_ray.storage import DeltaRef, Manifest, PartRef, Store, read_manifest, read_part, rewrite_part, write_rows
from taft_ray.storage import rundir as names

P = TypeVar("P", bound=Purge)

_WRITERS = 8  # parts that are written at once
_MORE_ERASURES = 2  # of what is listed after its deletion


def keys_of(table: pa.Table, hashes: Collection[str]) -> dict[bytes, int]:
    """The sample keys of these id hashes in a manifest, and the shard of each (-1: rejected)."""
    rows = table.filter(has_text(table["id_hash"], sorted(hashes)))
    return dict(zip(rows["key"].to_pylist(), rows["shard"].to_pylist(), strict=True))


def slices_lost(manifest: Manifest, request: RequestState, spec: RunSpec) -> dict[str, tuple[int, ...]]:
    """The slices of each shard that lose a sample by this request."""
    lost = {key: shard for key, shard in keys_of(manifest.table, request.hashes).items() if shard >= 0}
    return lost_slices(lost, slices=spec.slices, seed=spec.seed)


@dataclass(frozen=True, kw_only=True)
class Rewrite:
    """A manifest without a request's samples, written but named by nobody yet, and what goes once it is committed."""

    base: str | None  # the key of the manifest that it was made from
    fact: Rewritten
    left: Mapping[str, np.ndarray] | None = None  # of a subtraction: the sums over the rows that leave


@dataclass(frozen=True, kw_only=True)
class _Damage:
    """The damage that a rewrite met in quarantined shards: see `Rewritten`."""

    lost: Mapping[str, int] = field(default_factory=dict)
    parts: tuple[LostPart, ...] = ()
    whole: tuple[int, ...] = ()


def rewrite(store: Store, state: RunState, request: RequestState, manifest: Manifest | None) -> Rewrite:
    """Write the touched shards' cache parts and the manifest anew, as their next generation; nothing is removed.

    ``removing`` is what the commit dooms: the deltas of the touched shards, but for those that a resolve under way starts
    from, the parts and rows replaced, the monolith, snapshots, and evaluation caches.
    """
    digests = {ref.key: ref.digest for ref in _dropped(request).deltas}
    parts: dict[str, list[dict[str, Any]]] = {}
    rows: str | None = None
    samples: dict[str, int] = {}
    damage: _Damage = _Damage()
    made = None
    if manifest is not None:
        keys = set(keys_of(manifest.table, request.hashes))
        made, samples, damage = _rewrite_cache(store, state, manifest, request.shards, keys, digests)
        parts, rows = made.parts, made.key
    deltas: dict[str, DeltaRef] = {}
    left = None
    if request.mode == SUBTRACT and manifest is not None and made is not None:
        deltas = _records(store, state, request, made)
        left = _rows_leaving(store, state, request, manifest, made, set(keys_of(manifest.table, request.hashes)))
    survivals = {
        shard: _survival(state, request, shard, samples.get(str(shard))) for shard in request.shards if state.shards
    }
    digests |= {ref.key: ref.digest for survival in survivals.values() for ref in survival.purged}
    stay = {ref.key for survival in survivals.values() for ref in survival.kept}
    doomed = _dead(store, state, request, parts, rows, stay, ahead=1)
    if request.mode == SUBTRACT:
        replaced = [ref for shard in request.shards if (ref := state.shards[shard].delta) is not None]
        digests |= {ref.key: ref.digest for ref in replaced}
        doomed += [ref.key for ref in replaced]
    if manifest is not None:
        doomed += evaluation_caches(store, request.hashes)
    return Rewrite(
        base=None if manifest is None else manifest.key,
        fact=Rewritten(
            request.request,
            None if made is None else made.digest,
            rows,
            samples,
            tuple(Removed(key, digests.get(key)) for key in sorted(set(doomed))),
            {str(shard): one.kept for shard, one in survivals.items() if one.kept or one.purged},
            damage.lost,
            damage.parts,
            damage.whole,
            deltas,
        ),
        left=left,
    )


def _records(store: Store, state: RunState, request: RequestState, made: Manifest) -> dict[str, DeltaRef]:
    """The next generation's records of the shards that stay in the model without the request's samples."""

    def record(number: int) -> DeltaRef:
        generation = state.shards[number].current + 1
        parts = made.parts[str(number)]
        return write_record(
            store, names.delta_folder(number), number, generation, parts, made.fingerprint, len(state.classes)
        )

    stay = [
        number for number in request.shards if state.shards[number].state == TRAINED and made.parts.get(str(number))
    ]
    with ThreadPoolExecutor(_WRITERS) as writers:
        return {str(number): ref for number, ref in zip(stay, writers.map(record, stay), strict=True)}


def _rows_leaving(
    store: Store, state: RunState, request: RequestState, before: Manifest, after: Manifest, keys: Set[bytes]
) -> Mapping[str, np.ndarray] | None:
    """The sums over the rows with these keys, of shards in the model; None where there are none."""
    rows, labels = [], []
    for number in request.shards:
        if state.shards[number].state != TRAINED:
            continue
        stay = {ref["key"] for ref in after.parts.get(str(number), [])}
        for ref in before.parts.get(str(number), []):
            if ref["key"] not in stay:
                part = read_part(store, PartRef.from_json(ref), fingerprint=before.fingerprint)
                gone = [row for row, key in enumerate(part.keys) if key in keys]
                rows.append(part.tokens[gone, 0])
                labels.append(part.labels[gone])
    if not rows:
        return None
    return terms_of(np.concatenate(rows), np.concatenate(labels), len(state.classes))


def purge_request(store: Store, state: RunState, request: RequestState, manifest: Manifest | None) -> Purged:
    """Remove what the request's rewrite doomed, and what a worker or a killed process has left there since."""
    rewritten = request.rewritten
    assert rewritten is not None
    digests = {one.key: one.digest for one in rewritten.removing}
    parts = {} if manifest is None else manifest.parts
    doomed = sorted({*digests, *_dead(store, state, request, parts, state.manifest_key, state.checkpoint_keys())})
    removed = remove(store, doomed, digests, Purged, request.request)
    remove_lists(store)
    store.sweep(
        older_than_s=60.0
    )  # what dead writers left; of remote uploads, younger ones may be another process at work
    return replace(removed, manifest=rewritten.manifest)


def _dead(
    store: Store,
    state: RunState,
    request: RequestState,
    parts: Mapping[str, Any],
    rows: str | None,
    checkpoints: Set[str],
    ahead: int = 0,
) -> list[str]:
    """What nobody names in the touched shards and beside them, of generations that are over.

    Of an older generation nothing can be committed any more, so this stays true however late it is acted on; what is of the
    current one (a delta) or of the next (a part) may be another process at work. With ``ahead`` = 1: as it will be once the
    request's rewrite is committed.
    """
    named = {part["key"] for refs in parts.values() for part in refs} | {rows}
    needed = state.delta_keys() | (state.start_keys() if request.mode == "resolve" else set())
    dead: list[str] = []
    for number in request.shards:
        current = state.shards[number].current + ahead
        if rows is not None:
            listed = store.traces(f"{names.shard_prefix(number)}/")
            dead += [key for key in listed if key not in named and names.part_generation(key) <= current]
        dead += _old_deltas(store, number, current, needed)
        listed = store.traces(f"{names.checkpoint_folder(number)}/")
        dead += [key for key in listed if key not in checkpoints and names.part_generation(key) < current]
    if rows is not None:
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
    named = {part["key"] for part in manifest.refs} | {manifest.key}
    named |= state.delta_keys() | state.start_keys() | state.checkpoint_keys()
    current = {f"{number:05d}": shard.current for number, shard in state.shards.items()}
    dead = [key for key in store.traces(names.MANIFEST_ROWS) if names.manifest_version(key) <= state.rewrites]
    for folder, generation_of, ahead in (
        (names.CACHE_FOLDER, names.part_generation, 0),
        (names.DELTAS_FOLDER, names.delta_generation, 1),
        (names.CHECKPOINTS_FOLDER, names.part_generation, 1),
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


def _survival(state: RunState, request: RequestState, shard: int, left: int | None) -> Survival:
    """What becomes of a shard's checkpoints; left: its samples after the purge."""
    known = _dropped(request).slices
    # a shard that is empty, or of which nobody wrote down what it loses, keeps none: as if slice 0 had lost a sample
    lost = {0} if known is None or left == 0 else known.get(str(shard), ())
    return after_loss(state.shards[shard].checkpoints if shard in state.shards else (), lost)


def purge_starts(store: Store, state: RunState, request: RequestState) -> StartPurged:
    """Remove the deltas that a resolve started from, and whatever else of its shards' earlier generations is left."""
    digests = {ref.key: ref.digest for ref in _dropped(request).starts.values()}
    needed = state.delta_keys()
    old = [key for number in request.shards for key in _old_deltas(store, number, state.shards[number].current, needed)]
    return remove(store, [*digests, *old], digests, StartPurged, request.request)


def _dropped(request: RequestState) -> Dropped:
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


def _rewrite_cache(
    store: Store,
    state: RunState,
    manifest: Manifest,
    shards: Sequence[int],
    keys: Set[bytes],
    digests: dict[str, str],
) -> tuple[Manifest, dict[str, int], _Damage]:
    """The parts and the manifest without ``keys``; fills ``digests`` with those of what is replaced.

    A damaged part, which cannot be rewritten, goes whole, and its other samples keep their rows without a ``part_row``: their
    tokens are to be read again. The damage of quarantined shards comes back too.
    """
    table, parts = manifest.table, {shard: list(refs) for shard, refs in manifest.parts.items()}
    parts_lost: list[LostPart] = []
    touched = _parts_with(table, keys)

    def renew(shard: int, ref: dict[str, Any]) -> PartRef | None:
        old = PartRef.from_json(ref)
        folder = names.shard_prefix(shard, state.shards[shard].current + 1)
        return rewrite_part(store, folder, ref["part"], old, drop=keys, fingerprint=manifest.fingerprint)

    with ThreadPoolExecutor(_WRITERS) as writers:  # most of a write is waiting for storage
        coming = {
            ref["key"]: writers.submit(renew, shard, ref)
            for shard in shards
            for ref in parts.get(str(shard), [])
            if (shard, ref["part"]) in touched or state.shards[shard].quarantine is not None
        }
    for shard in shards:
        renewed = []
        for ref in parts.get(str(shard), []):
            if ref["key"] not in coming:
                renewed.append(ref)
                continue
            try:
                new = coming[ref["key"]].result()
            except (IntegrityError, ObjectMissing) as error:
                if not _in_quarantine(state, shard, ref["key"]):
                    raise ShardUnreadable(str(error), shard) from error
                new = None
                parts_lost.append(LostPart(shard, ref["part"], ref["key"], ref["rows"]))
            if new is None or new.key != ref["key"]:
                digests[ref["key"]] = ref["digest"]
            if new is not None:
                renewed.append({**new.to_json(), "part": ref["part"]})
        parts[str(shard)] = renewed
    gone = has_key(table["key"], sorted(keys))
    table = table.filter(pc.invert(gone))  # type: ignore[attr-defined]  # pyarrow makes its functions at import
    for lost in parts_lost:
        table = without_tokens(table, lost.shard, lost.part)
    digests[manifest.key] = manifest.digest
    made = write_rows(store, table, {**manifest.meta, "parts": parts}, version=state.rewrites + 1)
    samples = {str(shard): sum(ref["rows"] for ref in parts.get(str(shard), [])) for shard in shards}
    ill = [shard for shard in shards if state.shards[shard].quarantine is not None]
    if not ill:
        return made, samples, _Damage()
    waiting = {shard: lost_rows(table, shard).num_rows for shard in ill}
    damage = _Damage(
        lost={str(shard): count for shard, count in waiting.items() if count},
        parts=tuple(parts_lost),
        whole=tuple(shard for shard, count in waiting.items() if not count),
    )
    return made, samples, damage


def _parts_with(table: pa.Table, keys: Set[bytes]) -> set[tuple[int, int]]:
    """The parts that hold these samples: (shard, part)."""
    rows = table.filter(has_key(table["key"], sorted(keys)))
    return set(zip(rows["shard"].to_pylist(), rows["part"].to_pylist(), strict=True))


def _in_quarantine(state: RunState, shard: int, key: str) -> bool:
    quarantine = state.shards[shard].quarantine
    return quarantine is not None and any(one.key == key for one in quarantine.objects)
