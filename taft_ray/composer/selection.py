"""The samples that a request means: from ids, owners and shards to the samples that the manifest has, and the hashes of all."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from taft_ray.counting import are, plural, which
from taft_ray.data import id_hash, owner_hash, sample_key
from taft_ray.data.columns import has_key, has_number, is_kept
from taft_ray.data.identical import check_known, twins
from taft_ray.errors import UnknownSample, UsageError
from taft_ray.plans.additions import shards_of_keys
from taft_ray.plans.forget import MOST_IDS, Known
from taft_ray.run.record import Record
from taft_ray.run.secret import secret_of


@dataclass(frozen=True, kw_only=True)
class Selection:
    """A choice of what is to be forgotten: samples by id, everything of an owner, everything in a shard.

    with_identical: and every sample whose picture has the same bytes as one of those.
    """

    ids: tuple[str, ...] = ()
    owners: tuple[str, ...] = ()
    shards: tuple[int, ...] = ()
    with_identical: bool = False

    def __post_init__(self) -> None:
        if len(self.ids) > MOST_IDS:
            raise UsageError(
                f"expected at most {MOST_IDS:,} ids a request, got {len(self.ids):,}; make several requests"
            )
        if not (self.ids or self.owners or self.shards):
            raise UsageError("nothing to forget was given; set --ids, --owner or --shard")


def find(record: Record, selection: Selection) -> tuple[dict[str, str], dict[str, Known], list[str]]:
    """The id hash of everything asked, by name, what the manifest has of it, and the hashes of the owners.

    Samples asked by owner or shard are named by their hash. UsageError for owners and shards that are not in this run.
    """
    spec, secret = record.spec, secret_of(record.store)
    if record.state.cached is None:
        raise UsageError(
            f"the activation cache of {record.store.uri} is not finished, so it has no samples to forget yet. "
            "Leave them out of the data, or ask again when `taft-ray status` shows its shards"
        )
    by_key = {sample_key(name, spec.seed): name for name in selection.ids}
    by_owner = {sample_key(name, spec.seed): name for name in selection.owners}
    hashes: dict[str, str] = {}
    found: dict[str, Known] = {}
    owned: set[str] = set()
    shards = [shard for shard in selection.shards if shard in record.state.shards]
    table = _rows_near(record, by_key, shards)
    asked = _asked_rows(table, by_key, by_owner, shards)
    if by_owner or selection.with_identical or by_key.keys() - set(asked["key"].to_pylist()):
        table = record.manifest().table
        asked = _asked_rows(table, by_key, by_owner, shards)
    if selection.with_identical:
        check_known(table, record.store.uri)
        asked = pa.concat_tables([asked, twins(table, asked["key"].to_pylist())])
    columns = (asked[name].to_pylist() for name in ("key", "shard", "id_hash", "owner_key"))
    for key, shard, digest, owner in zip(*columns, strict=True):
        name = by_key.get(key) or digest
        if owner in by_owner:
            owned.add(by_owner[owner])
        hashes[name], found[name] = digest, Known(key=key, shard=shard)
    _name_the_rest(selection, secret, hashes)
    owners = {name: owner_hash(name, secret) for name in selection.owners} if secret else {}
    _check(record, selection, owned, owners)
    return hashes, found, list(owners.values())


def _rows_near(record: Record, keys: Collection[bytes], shards: Sequence[int]) -> pa.Table:
    """The rows of these shards, and of those where these samples are by the run's assignment; others may be among them."""
    manifest, spec = record.manifest(), record.spec
    if spec.assignment != "hash":  # the shard of a sample depends on the others
        return manifest.table
    placed = shards_of_keys(list(keys), spec.shards, record.state.additions)
    return manifest.rows({*shards, *itertools.chain.from_iterable(placed)})


def _asked_rows(table: pa.Table, keys: Iterable[bytes], owners: Iterable[bytes], shards: Sequence[int]) -> pa.Table:
    """The kept rows of these samples, owners and shards."""
    named = pc.or_(has_key(table["key"], keys), has_key(table["owner_key"], owners))  # type: ignore[attr-defined]  # made at import
    asked = pc.or_(named, has_number(table["shard"], shards))  # type: ignore[attr-defined]
    return table.filter(pc.and_(is_kept(table), asked))  # type: ignore[attr-defined]


def _name_the_rest(selection: Selection, secret: bytes | None, hashes: dict[str, str]) -> None:
    missing = [name for name in selection.ids if name not in hashes]
    if missing and secret is None:
        raise UnknownSample(
            f"{plural(len(missing), 'id is', 'ids are')} not in this run, such as {missing[0]!r}. Whether they were forgotten "
            "cannot be told: the key of the id hashes is damaged or was destroyed"
        )
    for name in missing:
        hashes[name] = id_hash(name, secret or b"")


def _check(record: Record, selection: Selection, owned: set[str], owners: Mapping[str, str]) -> None:
    state = record.state
    unknown = [n for n in selection.owners if n not in owned and owners.get(n) not in state.owner_tombstones]
    if unknown:
        raise UnknownSample(f"owners {unknown[:5]} have no samples in this run")
    wrong = [shard for shard in selection.shards if shard not in state.shards]
    if wrong:
        raise UsageError(f"{which('shard', wrong)} {are(len(wrong))} not in this run: it has 0 to {max(state.shards)}")
