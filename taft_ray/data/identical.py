"""The same bytes under several ids: how many there are, and which samples a request for one of them leaves.

The manifest's column ``content`` is a keyed hash of a kept picture's bytes. It goes with its row in a purge. Manifests of
earlier versions have no such column: then nothing is counted.
"""

# pyarrow.compute makes its functions when it is imported
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from taft_ray.counting import plural
from taft_ray.data.columns import has_key, is_kept
from taft_ray.data.keys import KEY_BYTES
from taft_ray.errors import UsageError

CONTENT = "content"
_HASH = pa.binary(KEY_BYTES)


def contents_of(answers: Iterable[Mapping[str, Any]]) -> dict[bytes, bytes]:
    """Sample key -> content hash, from the answers of the prefix pass; a marker of an earlier version has none."""
    return {
        bytes.fromhex(key): bytes.fromhex(content)
        for answer in answers
        for key, content in zip(answer["keys"], answer.get("contents", ()), strict=False)
    }


def with_contents(table: pa.Table, contents: Mapping[bytes, bytes]) -> pa.Table:
    """Adds ``content``; null for rejected rows."""
    kept = zip(table["key"].to_pylist(), table["shard"].to_pylist(), strict=True)
    return table.append_column(
        CONTENT, pa.array([contents.get(key) if shard >= 0 else None for key, shard in kept], _HASH)
    )


def identical_counts(table: pa.Table) -> dict[str, Any]:
    """{"identical": {"pictures": that are there under several ids, "samples": under how many}}; {} where there are none."""
    if CONTENT not in table.column_names:
        return {}
    counted = pc.value_counts(table[CONTENT].drop_null()).field("counts")
    several = counted.filter(pc.greater(counted, 1))
    if not len(several):
        return {}
    return {"identical": {"pictures": len(several), "samples": pc.sum(several).as_py()}}


def say(counts: Mapping[str, Any] | None) -> list[str]:
    """The note for a person who may have to answer a request; empty where no picture occurs twice."""
    found = (counts or {}).get("identical")
    if not found:
        return []
    return [
        f"{plural(found['pictures'], 'picture occurs', 'pictures occur')} more than once, under {found['samples']:,} ids with identical bytes; "
        "a forget reaches only the ids it names; --with-identical extends it"
    ]


def twins(table: pa.Table, keys: Collection[bytes]) -> pa.Table:
    """The other kept rows whose bytes are those of one of these samples."""
    if CONTENT not in table.column_names:
        return table.slice(0, 0)
    asked, kept = has_key(table["key"], keys), is_kept(table)
    contents = table.filter(pc.and_(asked, kept))[CONTENT].drop_null().unique()
    same = pc.is_in(table[CONTENT], value_set=contents)
    return table.filter(pc.and_(pc.and_(same, kept), pc.invert(asked)))


def check_known(table: pa.Table, run: str) -> None:
    """UsageError for a run whose manifest does not tell which pictures are identical."""
    if CONTENT not in table.column_names:
        raise UsageError(
            f"{run} was made by a version that did not compare pictures, so --with-identical finds none; "
            "name all ids with --ids"
        )
