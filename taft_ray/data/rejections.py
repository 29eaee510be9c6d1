"""The rows of a source that were rejected: which they are, in an error's few words and in a list of all."""

# pyarrow.compute makes its functions when it is imported
# pyright: reportAttributeAccessIssue=false

import json
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from taft_ray.data.manifest import REJECTED
from taft_ray.errors import DataError

_EXAMPLES = 3  # of a reason, in a message
_MANY_ROWS = (".parquet", ".pq", ".tar")  # files whose rows have numbers


def rejected_rows(manifest: pa.Table) -> list[dict[str, Any]]:
    """Every rejected row, {"file": its path relative to the data, "row", "reason"}, in the order of the source."""
    table = manifest.filter(pc.equal(manifest["status"], REJECTED)).select(["uri_relative", "row", "reason"])
    table = table.sort_by([("uri_relative", "ascending"), ("row", "ascending")])
    return table.rename_columns(["file", "row", "reason"]).to_pylist()


def examples(manifest: pa.Table) -> dict[str, list[str]]:
    """Up to three rejected rows of each reason, as a person finds them."""
    found: dict[str, list[str]] = defaultdict(list)
    for row in rejected_rows(manifest):
        if len(found[row["reason"]]) < _EXAMPLES:
            found[row["reason"]].append(place_of(row))
    return dict(found)


def place_of(row: Mapping[str, Any]) -> str:
    """Where a row is: its file, and its number where a file has many; what would break a line is escaped."""
    name = row["file"] if row["file"].isprintable() else ascii(row["file"])
    return f"{name}#{row['row']}" if row["row"] or row["file"].lower().endswith(_MANY_ROWS) else name


def write_list(manifest: pa.Table) -> bytes:
    """The rejected rows as JSON Lines."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rejected_rows(manifest)).encode()


def read_list(content: bytes, where: str) -> list[dict[str, Any]]:
    """Read what `write_list` wrote; DataError when it was changed."""
    try:
        rows = [json.loads(line) for line in content.decode().split("\n") if line]
        return [{name: row[name] for name in ("file", "row", "reason")} for row in rows]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{where} is not a list of rejected rows: {error}; train again to write it") from error
