"""Objects in a run's folder that nothing refers to: leftovers of a killed process, or something that should be gone."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from taft_ray.plans.state import RunState

_ALWAYS = ("run.json", "keys/id.key", "manifest/_MANIFEST.json")
_LEDGER = re.compile(r"ledger/\d{20}\.json")
_APART = ("reports/", "eval/")  # what reports are made of is in the ledger; evaluation caches have own manifests
_PASS = ("cache/", "base/", "manifest/")  # what the prefix pass writes before it commits


def referred_to(state: RunState, parts: Mapping[str, Any], composed: Collection[str], manifest_key: str) -> set[str]:
    """Every key that the ledger or the manifest names. parts: the manifest's, by shard. composed: the current snapshots."""
    wanted: set[str] = {part["key"] for refs in parts.values() for part in refs} | set(composed) | {manifest_key}
    wanted |= state.delta_keys() | state.start_keys() | state.checkpoint_keys()
    wanted |= {request.forgotten["certificate"]["key"] for request in state.requests.values() if request.forgotten}
    wanted |= {request.signed["key"] for request in state.requests.values() if request.signed}
    if state.cached is not None and state.cached.get("base") is not None:
        wanted.add(state.cached["base"]["key"])
    return wanted


def orphans(
    keys: Iterable[str], state: RunState, parts: Mapping[str, Any], composed: Collection[str], manifest_key: str
) -> list[str]:
    """Keys of deltas, checkpoints, cache parts, snapshots, manifests and certificates that ledger and manifest do not name."""
    wanted = referred_to(state, parts, composed, manifest_key)
    folders = ("deltas/", "checkpoints/", "composed/", "certificates/", "manifest/rows-")
    watched = (*folders, "cache/") if state.cached is not None else folders
    return [key for key in keys if key.startswith(watched) and key not in wanted]


def strangers(
    keys: Iterable[str], state: RunState, parts: Mapping[str, Any], composed: Collection[str], manifest_key: str
) -> list[str]:
    """Keys that are no part of a run at all and no leftover either: nobody but a person knows what they are."""
    known = referred_to(state, parts, composed, manifest_key) | {*_ALWAYS}
    apart = _APART if state.cached is not None else (*_APART, *_PASS)
    left = [key for key in keys if key not in known and not key.startswith(apart) and not _LEDGER.fullmatch(key)]
    leftovers = {*orphans(left, state, parts, composed, manifest_key)}
    return [key for key in left if key not in leftovers]
