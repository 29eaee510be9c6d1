"""A run without a request's samples, written beside the one that holds: cache parts, the manifest, and records of additive runs.

Nothing is removed here, and nobody names what is written until it is committed. `purge` removes what it replaces.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from taft_ray.composer.purge import dead, dropped_by, evaluation_caches, keys_of
from taft_ray.data.columns import has_key
from taft_ray.errors import IntegrityError, ObjectMissing
from taft_ray.plans.facts import LostPart, Removed, Rewritten
from taft_ray.plans.slices import Survival, after_loss, lost_slices
from taft_ray.plans.spec import RunSpec
from taft_ray.plans.state import SUBTRACT, RequestState, RunState, ShardState
from taft_ray.prefix.tokens_lost import lost_rows, without_tokens
from taft_ray.run.quarantine import ShardUnreadable
from taft_ray.run.rows import rows_in, terms_of, write_record
from taft_ray.storage import DeltaRef, Manifest, PartRef, Store, read_part, rewrite_part, rewrite_rows
from taft_ray.storage import rundir as names

_WRITERS = 8  # parts that are written at once


def slices_lost(manifest: Manifest, request: RequestState, spec: RunSpec) -> dict[str, tuple[int, ...]]:
    """The slices of each shard that lose a sample by this request."""
    lost = {key: shard for key, shard in keys_of(manifest.rows(request.shards), request.hashes).items() if shard >= 0}
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

    ``removing`` is what the commit dooms: parts and rows replaced, deltas of the touched shards, the monolith, snapshots and
    evaluation caches. Deltas that a resolve under way starts from stay.
    """
    digests = {ref.key: ref.digest for ref in dropped_by(request).deltas}
    samples: dict[str, int] = {}
    damage: _Damage = _Damage()
    made = None
    records: dict[str, DeltaRef] = {}
    left = None
    if manifest is not None:
        keys = set(keys_of(manifest.rows(request.shards), request.hashes))
        made, samples, damage = _rewrite_cache(store, state, manifest, request.shards, keys, digests)
        if request.mode == SUBTRACT:
            records = _records(store, state, request, made)
            left = _rows_leaving(store, state, request, manifest, made, keys)
    survivals = {
        shard: _survival(state, request, shard, samples.get(str(shard))) for shard in request.shards if state.shards
    }
    digests |= {ref.key: ref.digest for survival in survivals.values() for ref in survival.purged}
    stay = {ref.key for survival in survivals.values() for ref in survival.kept}
    doomed = dead(store, state, request, made, stay, ahead=1)
    if request.mode == SUBTRACT:
        replaced = [ref for shard in request.shards if (ref := _rows_of(state.shards[shard])) is not None]
        digests |= {ref.key: ref.digest for ref in replaced}
        doomed += [ref.key for ref in replaced]
    if manifest is not None:
        doomed += evaluation_caches(store, request.hashes)
    beside = {number for number in records if state.shards[int(number)].record is not None}
    return Rewrite(
        base=None if manifest is None else manifest.key,
        fact=Rewritten(
            request.request,
            None if made is None else made.digest,
            None if made is None else made.key,
            samples,
            tuple(Removed(key, digests.get(key)) for key in sorted(set(doomed))),
            {str(shard): one.kept for shard, one in survivals.items() if one.kept or one.purged},
            damage.lost,
            damage.parts,
            damage.whole,
            {number: ref for number, ref in records.items() if number not in beside},
            {number: ref for number, ref in records.items() if number in beside},
        ),
        left=left,
    )


def _records(store: Store, state: RunState, request: RequestState, made: Manifest) -> dict[str, DeltaRef]:
    """The next generation's records of the shards that stay in the model without the request's samples."""

    parts = made.parts_of(request.shards)

    def record(number: int) -> DeltaRef:
        generation = state.shards[number].current + 1
        named = parts[str(number)]
        return write_record(
            store, names.delta_folder(number), number, generation, named, made.fingerprint, len(state.classes)
        )

    stay = [n for n in request.shards if _rows_of(state.shards[n]) is not None and parts.get(str(n))]
    with ThreadPoolExecutor(_WRITERS) as writers:
        return {str(number): ref for number, ref in zip(stay, writers.map(record, stay), strict=True)}


def _rows_of(shard: ShardState) -> DeltaRef | None:
    """The record by which a shard's rows are in the model: beside its delta, or in its place."""
    return shard.record if shard.record is not None else shard.member()


def _rows_leaving(
    store: Store, state: RunState, request: RequestState, before: Manifest, after: Manifest, keys: Set[bytes]
) -> Mapping[str, np.ndarray] | None:
    """The sums over the rows with these keys, of shards in the model; None where there are none."""
    rows, labels = [], []
    old, new = before.parts_of(request.shards), after.parts_of(request.shards)
    for number in request.shards:
        if _rows_of(state.shards[number]) is None:
            continue
        stay = {ref["key"] for ref in new.get(str(number), [])}
        for ref in old.get(str(number), []):
            if ref["key"] not in stay:
                part = read_part(store, PartRef.from_json(ref), fingerprint=before.fingerprint)
                gone = [row for row, key in enumerate(part.keys) if key in keys]
                rows.append(rows_in(part)[gone])
                labels.append(part.labels[gone])
    if not rows:
        return None
    return terms_of(np.concatenate(rows), np.concatenate(labels), len(state.classes))


def _survival(state: RunState, request: RequestState, shard: int, left: int | None) -> Survival:
    """The fate of a shard's checkpoints; left: its samples after the purge."""
    known = dropped_by(request).slices
    # a shard that is empty, or of which nobody wrote down what it loses, keeps none: as if slice 0 had lost a sample
    lost = {0} if known is None or left == 0 else known.get(str(shard), ())
    return after_loss(state.shards[shard].checkpoints if shard in state.shards else (), lost)


def _rewrite_cache(
    store: Store,
    state: RunState,
    manifest: Manifest,
    shards: Sequence[int],
    keys: Set[bytes],
    digests: dict[str, str],
) -> tuple[Manifest, dict[str, int], _Damage]:
    """The parts and the manifest without ``keys``; fills ``digests`` with those of what is replaced.

    A damaged part, which cannot be rewritten, goes whole. Its other samples keep their rows without a ``part_row``, and their
    tokens are to be read again. The damage of quarantined shards comes back too.
    """
    table, parts = manifest.rows(shards), manifest.parts_of(shards)
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
    made = rewrite_rows(store, manifest, table, parts, shards, state.rewrites + 1)
    digests |= {one.key: one.digest for one in manifest.objects if one.key not in made.keys}
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
