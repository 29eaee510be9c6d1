"""The composer's side of a repair: what is damaged, what must be read again, and the commit of what was made.

Guarantees: a repair begins the next generation of its shards, as a purge does, so nothing stays that nobody committed.
A repair that another writer overtakes commits nothing, and is made again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from taft_ray.composer.composition import Composition
from taft_ray.composer.purge import damaged_evaluation_caches, purge_leftovers
from taft_ray.errors import IntegrityError
from taft_ray.plans.facts import Damage, ObjectRef, Repaired, RepairedPart, RepairedShard
from taft_ray.prefix.tokens_lost import lost_rows
from taft_ray.run.quarantine import damaged_objects, set_aside, set_monolith_aside
from taft_ray.run.record import Record
from taft_ray.storage import Manifest, digest_json, read_rows, rewrite_rows, write_again


class Mending:
    """The composer's side of `repair`, for one run."""

    def __init__(self, record: Record, composition: Composition) -> None:
        self.record, self.composition = record, composition
        self.store = record.store

    def examine(self) -> dict[str, Any]:
        """Read every object that the run names and put aside what is damaged.

        Returns {"base": key of the manifest, "shards", "monolith": whether it was lost, "linearisation_point": whether it is
        damaged}. "shards" has {"generation", "samples", "rows", "digests"} of each shard in quarantine. "generation" is that of what
        is made again. "rows" are the manifest's rows whose tokens are to be read again. "digests" are those of the damaged
        parts, by number.
        """
        self.record.refresh()
        if not self.manifest_is_whole():
            raise IntegrityError(
                f"{self.record.state.manifest_key} in {self.store.uri} is damaged: it is the list of samples"
            )
        set_aside(self.record, sorted(self.record.state.shards), checkpoints=True)
        set_monolith_aside(self.record)
        self._remove_damaged_copies()
        state = self.record.state
        base = None if state.cached is None else state.cached.base
        return {
            "base": state.manifest_key,
            "shards": {
                shard.shard: {
                    "generation": shard.current + 1,
                    "samples": shard.samples,
                    **self.record.current(lambda number=shard.shard: self._to_read(number)),
                }
                for shard in state.quarantined
                if not shard.unfitted
            },
            "monolith": state.monolith is not None and state.monolith.lost,
            "linearisation_point": base is not None and bool(damaged_objects(self.store, [base])),
        }

    def manifest_is_whole(self) -> bool:
        """Whether the manifest can be read, or could be written again from this process's memory."""
        self.record.refresh()
        known = self.record.manifest_in_memory
        if self.record.state.manifest_key is None or not self._manifest_damage():
            return True
        if known is not None:
            self.store.erase(sorted(write_again(self.store, known).keys - known.keys))
        return not self._manifest_damage()

    def _manifest_damage(self) -> list[Damage]:
        """The damage of the manifest: of its head, or else of its segments."""
        head = ObjectRef(str(self.record.state.manifest_key), str(self.record.state.manifest))
        if damage := damaged_objects(self.store, [head]):
            return damage
        return damaged_objects(self.store, read_rows(self.store, head.key, head.digest).segments)

    def _remove_damaged_copies(self) -> None:
        """Damaged copies of what is elsewhere go: evaluation caches, made again when needed, and snapshots of another model."""
        self.store.erase(damaged_evaluation_caches(self.store))
        self.composition.remove_old_snapshots()

    def _to_read(self, shard: int) -> dict[str, Any]:
        """The manifest's rows of a shard whose part is damaged now, or went with a forget; the digests of the damaged ones."""
        table = self.record.manifest().rows([shard])
        refs = self.record.parts([shard])
        bad = {one.key for one in damaged_objects(self.store, map(ObjectRef.from_json, refs))}
        digests = {ref["part"]: ref["digest"] for ref in refs if ref["key"] in bad}
        numbers = list(digests)
        mine = table.filter(pc.equal(table["shard"], shard))  # type: ignore[attr-defined]  # pyarrow makes its functions at import
        damaged = mine.filter(pc.is_in(mine["part"], value_set=pa.array(numbers, pa.int32())))  # type: ignore[attr-defined]
        whole = damaged.filter(pc.is_valid(damaged["part_row"]))  # type: ignore[attr-defined]
        return {"rows": pa.concat_tables([whole, lost_rows(mine)]).combine_chunks(), "digests": digests}

    def repaired(self, made: Mapping[str, Any]) -> Repaired | None:
        """Commit what was made again for shards in quarantine, and remove the damaged objects.

        made: {"base": as `examine` said, "shards": {shard: {"generation", "parts": [PartRef JSON with "part" and "keys", in
        the part's order]}}}. None where another writer changed what it rests on: then what was made is removed.
        """
        begun = [[number, one["generation"]] for number, one in sorted(made["shards"].items())]
        op = f"repaired/{digest_json([made['base'], begun])[:32]}"
        committed = self.record.commit(Repaired, op, lambda: self._decide(made))
        keys = {part["key"] for one in made["shards"].values() for part in one["parts"]}
        if committed is None:
            named = {
                part["key"] for part in self.record.current(lambda: self.record.parts(sorted(self.record.state.shards)))
            }
            self.store.erase(sorted(keys - named))
            return None
        self.record.publish()
        self.record.current(lambda: purge_leftovers(self.store, self.record.state, self.record.manifest()))
        return committed

    def _decide(self, made: Mapping[str, Any]) -> Repaired | None:
        state = self.record.state
        if state.manifest_key != made["base"] or not made["shards"]:
            return None
        for number, one in made["shards"].items():
            shard = state.shards[number]
            if shard.quarantine is None or shard.current + 1 != one["generation"] or state.being_purged(number):
                return None
            if not all(self.store.exists(part["key"]) for part in one["parts"]):
                return None
        new = [part for one in made["shards"].values() for part in one["parts"]]
        before = {part["key"]: part["digest"] for part in self.record.parts(sorted(made["shards"]))}
        manifest = self._manifest_with(made["shards"]) if new else None
        parts = (manifest or self.record.manifest()).parts_of(list(made["shards"]))
        refs = [ref for number in made["shards"] for ref in state.shards[number].checkpoints]
        damaged = {one.key for one in damaged_objects(self.store, refs)}
        shards = {
            str(number): RepairedShard(
                sum(ref["rows"] for ref in parts.get(str(number), [])),
                tuple(ref.key for ref in state.shards[number].checkpoints if ref.key in damaged),
            )
            for number in made["shards"]
        }
        return Repaired(
            shards,
            None if manifest is None else manifest.digest,
            None if manifest is None else manifest.key,
            tuple(RepairedPart(part["key"], part["digest"], part["digest"] in before.values()) for part in new),
        )

    def _manifest_with(self, shards: Mapping[int, Mapping[str, Any]]) -> Manifest:
        """Write the manifest that names the parts made again, for samples that had lost their tokens too."""
        manifest = self.record.manifest()
        table, parts = manifest.rows(shards), manifest.parts_of(shards)
        row_of: dict[bytes, int] = {}
        for number, one in shards.items():
            refs = {ref["part"]: ref for ref in parts.get(str(number), [])}
            for part in one["parts"]:
                refs[part["part"]] = {name: part[name] for name in ("key", "digest", "rows", "bytes", "part")}
                row_of |= {key: row for row, key in enumerate(part["keys"])}
            parts[str(number)] = [refs[part] for part in sorted(refs)]
        at = table.schema.get_field_index("part_row")
        rows: Sequence[int | None] = [
            row_of.get(key, row)
            for key, row in zip(table["key"].to_pylist(), table["part_row"].to_pylist(), strict=True)
        ]
        field = table.schema.field(at)
        table = table.set_column(at, field, pa.array(rows, field.type))
        return rewrite_rows(self.store, manifest, table, parts, shards, self.record.state.rewrites + 1)
