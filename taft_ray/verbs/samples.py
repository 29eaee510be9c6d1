"""`samples`: the samples that a run has, by the ids that a forget takes. Starts nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from taft_ray.data import open_source
from taft_ray.data.columns import has_text, is_kept
from taft_ray.data.sample_ids import ids_by_place, ids_of_source
from taft_ray.errors import TaftError, UsageError
from taft_ray.log import operation
from taft_ray.run.address import data_address, run_address
from taft_ray.run.record import Record


@operation("samples")
def samples(run: str, *, data: str | None = None) -> dict[str, Any]:
    """Every sample in the shards of a run: {"run", "samples": [{"id", "label", "shard", "file", "row"}], "without_id", "why"}.

    The run keeps no ids. One that is the path of a file, or FILE#ROW, is told by its key; others are read from the source.

    data: where the source lies now, by default where the run was read from. An id that is not there is None, and counted in
    ``without_id``; ``why`` says what was in the way. UsageError where no data was read in yet.
    """
    record = Record(run_address(run))
    if record.state.cached is None:
        raise UsageError(f"{record.store.uri} has read no data in yet; taft-ray train does, and goes on where it was")
    table = _kept(record)
    ids, why = ids_by_place(table, record.spec.seed), None
    if None in ids:
        began = [record.spec.data, *(one.data for one in record.state.additions)]
        ids, why = _from_source(
            record, table, ids, [data_address(data)] if data is not None else list(dict.fromkeys(began))
        )
    label, shard, file, row = (table[name].to_pylist() for name in ("label", "shard", "uri_relative", "row"))
    classes = record.state.classes
    found = [
        {"id": ids[at], "label": classes[label[at]], "shard": shard[at], "file": file[at], "row": row[at]}
        for at in range(table.num_rows)
    ]
    found.sort(key=lambda one: (one["file"], one["row"]))
    return {"run": record.store.uri, "samples": found, "without_id": ids.count(None), "why": why}


def _kept(record: Record) -> pa.Table:
    """The rows of the manifest that are in a shard; without those that an older copy of the run has brought back."""
    table = record.current(record.manifest).table
    table = table.filter(is_kept(table))
    if "id_hash" not in table.column_names:
        return table
    return table.filter(pc.invert(has_text(table["id_hash"], sorted(record.state.forgotten()))))  # type: ignore[attr-defined]


def _from_source(
    record: Record, table: pa.Table, ids: list[str | None], sources: Sequence[str]
) -> tuple[list[str | None], str | None]:
    """The ids with those that the sources have, and why others are missing."""
    keys, files = table["key"].to_pylist(), table["uri_relative"].to_pylist()
    wanted = {file for file, name in zip(files, ids, strict=True) if name is None}
    known: dict[bytes, str] = {}
    for data in sources:
        try:
            known |= ids_of_source([one for one in open_source(data).files if one.relative in wanted], record.spec.seed)
        except (TaftError, OSError) as error:
            return ids, f"the data cannot be read: {error}"
    found = [name if name is not None else known.get(key) for name, key in zip(ids, keys, strict=True)]
    return found, f"{', '.join(sources)} has other ids now; --data says where the data lies" if None in found else None
