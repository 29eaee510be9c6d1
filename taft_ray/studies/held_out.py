"""The samples that are held out of a sweep, and those that no trial may read."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from taft_ray.counting import plural
from taft_ray.data import held_out
from taft_ray.data.manifest import KEPT
from taft_ray.errors import DataError
from taft_ray.plans.state import RunState
from taft_ray.plans.sweep import Sweep
from taft_ray.storage import Manifest


def check_held_out(manifest: Manifest, state: RunState, sweep: Sweep, seed: int) -> None:
    """DataError when nobody is held out, or nobody is left to fit on."""
    table, left_out = manifest.table, gone(manifest.table, state)
    kept = table.filter(pc.equal(table["status"], KEPT))["key"].to_pylist()  # type: ignore[attr-defined]
    keys = [key for key in kept if key not in left_out]
    held = held_out(keys, fraction=sweep.held_out, seed=seed)
    if not held.any() or held.all():
        what = "held out to measure on" if not held.any() else "left to fit on"
        raise DataError(
            f"none of {plural(len(keys), 'sample')} is {what} with --held-out {sweep.held_out}; set another fraction"
        )


def gone(table: pa.Table, state: RunState) -> set[bytes]:
    """Sample keys that no trial may read."""
    if "id_hash" not in table.column_names or not state.tombstones:
        return set()
    asked = pc.is_in(table["id_hash"], value_set=pa.array(sorted(state.tombstones), pa.string()))  # type: ignore[attr-defined]
    return set(table.filter(asked)["key"].to_pylist())
