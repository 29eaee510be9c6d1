"""The model of some owners' pictures alone: sums over their rows. An additive run alone has it: there a sum of rows is a model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from taft_ray.counting import are, which
from taft_ray.data import sample_key
from taft_ray.data.columns import has_key, is_kept
from taft_ray.errors import UnknownSample, UsageError
from taft_ray.run.record import Record
from taft_ray.run.rows import joined, terms_of
from taft_ray.storage import PartRef, read_several

_TOGETHER = 64  # parts that are in memory at once


def sums_of_owners(record: Record, owners: Sequence[str]) -> dict[str, np.ndarray]:
    """The sums over the rows of these owners' samples, of shards in the model.

    UnknownSample for owners without samples in the run, UsageError where it is not additive or their shards are out of the model.
    """
    found: dict[str, np.ndarray] = {}
    for _, rows, labels in rows_of_owners(record, owners):
        terms = terms_of(rows, labels, len(record.state.classes))
        found = {name: found[name] + term if name in found else term for name, term in terms.items()}
    if not found:
        raise UsageError(f"the shards of {which('owner', list(owners))} are out of the model; retrain them first")
    return found


def rows_of_owners(record: Record, owners: Sequence[str]) -> Iterator[tuple[list[bytes], np.ndarray, np.ndarray]]:
    """Keys, rows (n, S) and labels (n,) of these owners' samples in the model, some at a time; errors as of `sums_of_owners`."""
    rows, manifest = _rows(record, owners), record.manifest()
    wanted = zip(rows["shard"].to_pylist(), rows["part"].to_pylist(), strict=True)
    held = set(rows["key"].to_pylist())
    parts = {(int(shard), ref["part"]): ref for shard, refs in manifest.parts.items() for ref in refs}
    refs = [PartRef.from_json(parts[place]) for place in sorted(set(wanted))]
    for start in range(0, len(refs), _TOGETHER):
        read = read_several(record.store, refs[start : start + _TOGETHER], fingerprint=manifest.fingerprint)
        values, labels = joined(read)
        read_keys = [key for part in read for key in part.keys]
        mine = np.array([key in held for key in read_keys])
        yield [key for key, is_mine in zip(read_keys, mine, strict=True) if is_mine], values[mine], labels[mine]


def hashes_of_owners(record: Record, owners: Sequence[str]) -> list[str]:
    """The id hashes of these owners' samples in the model, sorted; errors as of `sums_of_owners`."""
    return sorted(_rows(record, owners)["id_hash"].to_pylist())


def count_owners(record: Record) -> int:
    """How many owners have samples in the run's manifest, in the model or not; 0 where the data has no owner column."""
    table = record.manifest().table
    owners = table.filter(is_kept(table))["owner_key"]
    return pc.count_distinct(owners, mode="only_valid").as_py()  # type: ignore[attr-defined]  # made at import


def _rows(record: Record, owners: Sequence[str]) -> pa.Table:
    """The manifest's rows of these owners' samples in the model."""
    record.spec.check_additive("the model of some owners alone")
    keys = {sample_key(owner, record.spec.seed): owner for owner in owners}
    table = record.manifest().table
    rows = table.filter(pc.and_(is_kept(table), has_key(table["owner_key"], keys)))  # type: ignore[attr-defined]  # made at import
    unknown = [keys[key] for key in keys if key not in set(rows["owner_key"].to_pylist())]
    if unknown:
        named = which("owner", unknown)
        raise UnknownSample(f"{named} {are(len(unknown))} not in this run, or {are(len(unknown))} forgotten")
    there = {shard.shard for shard in record.state.in_tier(record.spec.two_tiers)}
    return rows.filter(pa.array([shard in there for shard in rows["shard"].to_pylist()], pa.bool_()))
