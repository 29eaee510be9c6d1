"""Objects in a run's folder that nothing refers to: leftovers of a killed process, or something that should be gone."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from taft_ray.plans.state import RunState


def orphans(
    keys: Iterable[str], state: RunState, parts: Mapping[str, Any], composed: Collection[str], manifest_key: str
) -> list[str]:
    """Keys of deltas, checkpoints, cache parts, snapshots, manifests and certificates that the ledger and the manifest do not name.

    parts: the manifest's parts by shard. composed: the keys of the snapshots that are current.
    """
    wanted: set[str] = {part["key"] for refs in parts.values() for part in refs} | set(composed) | {manifest_key}
    wanted |= state.delta_keys() | state.start_keys() | state.checkpoint_keys()
    wanted |= {request.forgotten["certificate"]["key"] for request in state.requests.values() if request.forgotten}
    folders = ("deltas/", "checkpoints/", "composed/", "certificates/", "manifest/rows-")
    watched = (*folders, "cache/") if state.cached is not None else folders
    return [key for key in keys if key.startswith(watched) and key not in wanted]
