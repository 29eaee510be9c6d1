"""Rows of a manifest whose tokens went with a damaged cache part: kept, in a part, at no row of it."""

# pyarrow.compute makes its functions when it is imported
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from taft_ray.data.manifest import KEPT


def without_tokens(table: pa.Table, shard: int, part: int) -> pa.Table:
    """The manifest once this part of a shard is gone whole: its samples stay, at no row."""
    mine = pc.and_(pc.equal(table["shard"], shard), pc.fill_null(pc.equal(table["part"], part), False))
    at = table.schema.get_field_index("part_row")
    rows = pc.if_else(mine, pa.scalar(None, table.schema.field(at).type), table["part_row"])
    return table.set_column(at, table.schema.field(at), rows)


def lost_rows(table: pa.Table, shard: int | None = None) -> pa.Table:
    """The rows of samples without tokens, of one shard or of all."""
    lost = pc.and_(pc.equal(table["status"], KEPT), pc.is_null(table["part_row"]))
    return table.filter(lost if shard is None else pc.and_(lost, pc.equal(table["shard"], shard)))
