"""The inputs of a private fit, and what was reserved for them: for those who reserve, and for those who fit again to verify."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow.compute as pc

from taft_ray.data.columns import is_kept
from taft_ray.errors import IntegrityError
from taft_ray.plans.spec import RunSpec
from taft_ray.plans.state import RunState, ShardState
from taft_ray.storage import Manifest, digest_json


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What a shard is fitted on. units: sample key in hex -> number of its owner; None where each sample is a unit."""

    parts: tuple[str, ...]
    units: Mapping[str, int] | None
    count: int  # of units

    @property
    def digest(self) -> str:
        """Of the parts, and of who owns what."""
        return inputs_digest(self.parts, self.units)

    @property
    def told(self) -> dict[str, Any]:
        """What a task says of them beside its parts."""
        return {} if self.units is None else {"units": dict(self.units)}


def inputs_digest(parts: Sequence[str], units: Mapping[str, int] | None) -> str:
    """The digest of what is fitted: of the parts, and of who owns what."""
    return digest_json({"parts": list(parts), **({} if units is None else {"units": dict(units)})})


def inputs_of(spec: RunSpec, manifest: Manifest, shard: int, parts: Sequence[Mapping[str, Any]]) -> Inputs:
    """The inputs of a shard's fit on these parts."""
    assert spec.privacy is not None
    digests = tuple(part["digest"] for part in parts)
    if spec.privacy.unit == "sample":
        return Inputs(parts=digests, units=None, count=sum(int(part["rows"]) for part in parts))
    table = manifest.rows([shard])
    rows = table.filter(pc.and_(is_kept(table), pc.equal(table["shard"], shard)))  # type: ignore[attr-defined]  # made at import
    numbers: dict[bytes, int] = {}
    several = sorted(zip(rows["key"].to_pylist(), rows["owner_key"].to_pylist(), strict=True))
    # a sample without an owner is a unit of its own
    units = {key.hex(): numbers.setdefault(owner or key, len(numbers)) for key, owner in several}
    return Inputs(parts=digests, units=units, count=len(numbers))


def reserved_task(spec: RunSpec, state: RunState, manifest: Manifest, shard: ShardState) -> dict[str, Any]:
    """What the task of a private fit that was made had beside its parts; IntegrityError where nobody reserved for it."""
    by = [one for one in state.reservations.get(shard.shard, ()) if one.digest == shard.facts.get("reserved")]
    if not by:
        raise IntegrityError(f"the fit of shard {shard.shard} was not paid for")
    inputs = inputs_of(spec, manifest, shard.shard, manifest.parts_of([shard.shard]).get(str(shard.shard), []))
    return {"reserved": by[0].to_json(), **inputs.told}
