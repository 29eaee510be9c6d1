"""The list of rejected rows that a run without a manifest leaves in its reports, and what `status --rejected` answers.

The manifest lists them once there is one, and a purge takes forgotten samples out of it. Until then the list lies in
``reports/``; the pass that succeeds removes it, and so does a purge.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from taft_ray.data import check_rejected, counts
from taft_ray.data.rejections import examples, read_list, rejected_rows, write_list
from taft_ray.errors import ObjectMissing, TooManyRejected
from taft_ray.run.record import Record
from taft_ray.storage import Store
from taft_ray.storage import rundir as names


def list_key(folders: str) -> str:
    """Where the list of a prefix pass lies: one for the run's data, one for each evaluation data set."""
    inside = folders.split("/")[:-1][1:]
    return f"{names.REJECTED_LISTS}{''.join(f'-{part}' for part in inside)}.jsonl"


def check_rows(store: Store, manifest: pa.Table, max_rejected: float, key: str) -> None:
    """`check_rejected`, whose error names rows of each reason, and the list of all that it writes to ``key``."""
    try:
        check_rejected(counts(manifest), max_rejected, examples(manifest))
    except TooManyRejected as error:
        store.write(key, write_list(manifest))
        raise TooManyRejected(f"{error}; {key} in {store.uri} lists all of them") from None


def remove_list(store: Store, key: str) -> None:
    """Remove the list of a pass that has a manifest now."""
    if store.exists(key):
        store.erase([key])


def remove_lists(store: Store) -> None:
    """Remove every list: a forgotten sample may be in one."""
    listed = store.traces(names.REJECTED_LISTS)
    if listed:
        store.erase(listed)


def rejected(run: str) -> dict[str, Any]:
    """The rejected rows of a run, from its manifest, or from the list of a pass that ended for them.

    {"run", "rejected": how many, "reasons": {reason: how many}, "rejected_rows": [{"file", "row", "reason"}], "listed_in"}.
    """
    record = Record(run)
    if record.state.cached is not None:
        manifest = record.current(record.manifest)
        table = manifest.table
        if "id_hash" in table.column_names:  # an older copy of the run may hold what was forgotten since
            gone = pa.array(sorted(record.state.tombstones), pa.string())
            table = table.filter(pc.invert(pc.is_in(table["id_hash"], value_set=gone)))  # type: ignore[attr-defined]
        rows, where = rejected_rows(table), manifest.key
    else:
        where = f"{names.REJECTED_LISTS}.jsonl"
        try:
            rows = read_list(record.store.read(where), f"{where} in {record.store.uri}")
        except ObjectMissing:
            rows, where = [], None  # no row was read in yet, or none was too much
    return {
        "run": run,
        "rejected": len(rows),
        "reasons": dict(sorted(Counter(row["reason"] for row in rows).items())),
        "rejected_rows": rows,
        "listed_in": where,
    }
