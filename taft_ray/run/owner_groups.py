"""The owners of the pictures in an additive run's model: who they are called, and which samples are theirs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow.compute as pc

from taft_ray.counting import are, plural, which
from taft_ray.data import sample_keys
from taft_ray.data.columns import has_number, is_kept
from taft_ray.data.keys import owner_label
from taft_ray.errors import UnknownSample
from taft_ray.run.choice import with_rows
from taft_ray.run.record import Record
from taft_ray.run.secret import secret_of

MOST_OWNERS = 500
MOST_PICTURES = 65_536  # of all owners together, whose rows are in memory at once: 256 MB of 2,048 numbers each


@dataclass(frozen=True, kw_only=True)
class OwnerGroups:
    """names: owner key -> the name that was given, or a hash with the run's secret. owner_of: sample key -> owner key.

    left_out: sentences on owners that are not among them. Without an owner column all is empty.
    """

    names: Mapping[bytes, str]
    owner_of: Mapping[bytes, bytes]
    left_out: tuple[str, ...] = ()


def owner_groups(record: Record, named: Sequence[str] = ()) -> OwnerGroups:
    """The owners in ``named`` first, then those with the most pictures, up to `MOST_OWNERS` and `MOST_PICTURES`.

    UnknownSample for a name without pictures in the model.
    """
    table = record.manifest().table
    there = [shard.shard for shard in with_rows(record.state)]
    table = table.filter(pc.and_(is_kept(table), has_number(table["shard"], there)))  # type: ignore[attr-defined]  # made at import
    pairs = list(zip(table["key"].to_pylist(), table["owner_key"].to_pylist(), strict=True))
    counts = Counter(owner for _, owner in pairs if owner is not None)
    given = dict(zip(sample_keys(named, record.spec.seed), named, strict=True))
    unknown = [name for key, name in given.items() if key not in counts]
    if unknown:
        raise UnknownSample(
            f"{which('owner', unknown)} {are(len(unknown))} not in this run's model; check --owners, one name per owner"
        )
    secret = secret_of(record.store)
    names: dict[bytes, str] = {}
    held = 0
    for owner in sorted(counts, key=lambda key: (key not in given, -counts[key], key)):
        if owner not in given and (secret is None or len(names) >= MOST_OWNERS or held + counts[owner] > MOST_PICTURES):
            continue
        names[owner] = given[owner] if owner in given else owner_label(owner, secret or b"")
        held += counts[owner]
    owner_of = {key: owner for key, owner in pairs if owner in names}
    return OwnerGroups(names=names, owner_of=owner_of, left_out=_left_out(len(counts) - len(names), secret))


def _left_out(missing: int, secret: bytes | None) -> tuple[str, ...]:
    if not missing:
        return ()
    told = f"{plural(missing, 'owner')} {'was' if missing == 1 else 'were'} not evaluated: "
    if secret is None:
        return (f"{told}the key of the id hashes was destroyed, and only owners in --owners can be named",)
    return (f"{told}at most {MOST_OWNERS} with {MOST_PICTURES:,} pictures are, those with the most pictures first",)
