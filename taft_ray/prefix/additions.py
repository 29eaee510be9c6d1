"""More data for a run that exists: what of it is new, and the pass over it.

source → rows without those that the run knows → shards behind the run's own → parts → the manifest of both
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from taft_ray.data import counts, open_source, sample_keys
from taft_ray.data.classes import more_classes
from taft_ray.data.columns import has_key
from taft_ray.data.identical import identical_counts
from taft_ray.data.keys import KEY_BYTES
from taft_ray.errors import CommitConflict
from taft_ray.plans.additions import Added, AdditionBegun
from taft_ray.plans.spec import RunSpec
from taft_ray.plans.state import RunState
from taft_ray.prefix.cache import PART_FOLDERS, CacheResult, build_cache, without_forgotten
from taft_ray.prefix.passes import Indexed, Passes
from taft_ray.progress import Report
from taft_ray.run.record import Record
from taft_ray.storage import Manifest, Store, extend_rows

_TRIES = 5  # of an addition that other writers keep overtaking


@dataclass(frozen=True, kw_only=True)
class More:
    """Data beside a run's own: its rows that are new, how many the run knows, and how many stay out since they are forgotten."""

    source: Indexed
    known: int
    forgotten: int


def index_more(
    passes: Passes, data: str, spec: RunSpec, manifest: Manifest, state: RunState, secret: bytes | None
) -> More:
    """Read all of a data set but its pictures; rows that are forgotten, or whose ids the manifest has, stay out.

    Classes that are new come behind those of the run. DataError where the data cannot be understood.
    """
    began = time.perf_counter()
    source = open_source(data)
    rows = passes.index(source.files)
    ids = rows["id"].to_pylist()
    named = pa.array([name is not None for name in ids], pa.bool_())
    keys = sample_keys([name if name is not None else "" for name in ids], spec.seed)
    held = pa.chunked_array([pa.array(keys, pa.binary(KEY_BYTES))])
    there = pc.and_(named, has_key(held, manifest.table["key"].to_pylist())).combine_chunks()  # type: ignore[attr-defined]  # made at import
    known = sum(there.to_pylist())
    unknown = rows.filter(pc.invert(there))  # type: ignore[attr-defined]
    fresh = without_forgotten(unknown, state, secret)
    classes = more_classes(state.classes, source.classes, fresh["label"].to_pylist(), source.two_readings)
    indexed = Indexed(files=source.files, rows=fresh, classes=classes, seconds=time.perf_counter() - began)
    return More(source=indexed, known=known, forgotten=unknown.num_rows - fresh.num_rows)


def shards_for(rows: int, samples: int, shards: int) -> int:
    """How many shards as large as the run's own (samples in shards of them) so many rows fill; at least one."""
    return max(1, round(rows * shards / samples)) if samples else 1


def read_more(
    passes: Passes,
    run: str,
    record: Record,
    begun: AdditionBegun,
    more: More,
    admit: Callable[[Added, AdditionBegun], Added | None],
    secret: bytes | None,
    workers: int,
    report: Report,
) -> None:
    """Make the parts of data that is to be added, and have it committed. Parts that a killed pass finished are not redone.

    admit: commits the fact, or answers None where other writers changed the run meanwhile: then what they forgot is left out.
    """
    for _ in range(_TRIES):
        record.refresh()
        if record.state.adding != begun:
            if any((one.data, one.first) == (begun.data, begun.first) for one in record.state.additions):
                return  # another process was at the same, and first
            raise CommitConflict(f"another addition took the place of that of {begun.data}; run the same command again")
        requests = len(record.state.requests)
        result = build_cache(
            passes, record.store, run, record.spec, source=more.source, shards=begun.shards, first=begun.first,
            assignment=record.spec.assignment, folders=PART_FOLDERS, tombstones=record.state, secret=secret,
            workers=workers, report=report,
        )  # fmt: skip
        before = record.current(record.manifest)
        fact = added_fact(record.store, result, more, begun, before, record.state.rewrites + 1, requests)
        if admit(fact, begun) is not None:
            return
    raise CommitConflict(f"other writers changed {run} under {_TRIES} additions in a row; run the same command again")


def nothing_added(begun: AdditionBegun, more: More, before: Manifest, state: RunState) -> Added:
    """The end of an addition that was begun and of whose data nothing is new any more."""
    return Added(
        data=begun.data,
        first=begun.first,
        samples=(),
        classes=state.classes,
        manifest=before.digest,
        manifest_key=before.key,
        base=before.key,
        known=more.known,
        forgotten=more.forgotten,
        requests=len(state.requests),
    )


def added_fact(
    store: Store,
    result: CacheResult,
    more: More,
    begun: AdditionBegun,
    before: Manifest,
    version: int,
    requests: int,
) -> Added:
    """Write the manifest of a finished pass behind the one that holds; what the ledger says of it."""
    meta = {"parts": result.parts, "classes": list(result.classes), "fingerprint": before.fingerprint}
    manifest = extend_rows(store, before, result.table, meta, version)
    shards = range(begun.first, begun.first + begun.shards)
    return Added(
        data=begun.data,
        first=begun.first,
        samples=tuple(sum(ref["rows"] for ref in result.parts.get(str(shard), [])) for shard in shards),
        classes=tuple(result.classes),
        manifest=manifest.digest,
        manifest_key=manifest.key,
        base=before.key,
        counts={**counts(result.table), **identical_counts(result.table)},
        seconds=result.seconds,
        prefix_seconds=result.prefix_seconds,
        started=result.started,
        ended=result.ended,
        images=result.images,
        bytes=result.bytes,
        known=more.known,
        forgotten=more.forgotten + result.forgotten,
        requests=requests,
    )
