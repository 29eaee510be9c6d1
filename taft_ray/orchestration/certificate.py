"""The certificate of a forget: what was asked, what was removed, what the model is now, and what it does not cover."""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping
from typing import Any

from taft_ray.plans.spec import RunSpec
from taft_ray.plans.state import TRAINED, RunState
from taft_ray.storage import Ledger


def certificate_of(
    run: RunState, ledger: Ledger, spec: RunSpec, request: str, after: str | None, told: Mapping[str, Any]
) -> dict[str, Any]:
    """What happened in a forget, from the ledger's own facts and what its driver measured (see `Forgetting.conclude`)."""
    state = run.requests[request]
    chain = {
        step: {"number": entry.number, "digest": entry.digest, "time": entry.time}
        for step in ("requested", "dropped", "purged", "start-purged")
        if (entry := ledger.known_op(f"{request}/{step}")) is not None
    }
    dropped, purged, starts = state.dropped or {}, state.purged or {}, state.start_purged or {}
    retrained = [
        {"shard": number, "generation": shard.generation, "delta": shard.delta, "facts": shard.facts}
        for number in state.shards
        if (shard := run.shards[number]).state == TRAINED
    ]
    seconds = {
        "drop": purged.get("drop_seconds"),
        "purge": purged.get("seconds"),
        "retrain": told.get("retrain_seconds"),
        "total": time.time() - state.started,
    }
    return {
        "request": request,
        "mode": state.mode,
        "requested": state.time,
        "samples": len(state.hashes),
        "id_hashes": list(state.hashes),
        "shards": list(state.shards),
        "composed_before": state.composed_before,
        "composed_after": after,
        "composition": spec.compose,
        "deltas_removed": dropped.get("deltas", []),
        "objects_removed": [*purged.get("removed", []), *starts.get("removed", [])],
        "older_versions_removed": purged.get("older_versions", 0) + starts.get("older_versions", 0),
        "still_listed_after_purge": [*purged.get("still_listed", []), *starts.get("still_listed", [])],
        "beyond_reach": [text for text in (purged.get("beyond_reach"), starts.get("beyond_reach")) if text],
        "local_copies_removed": told.get("local_copies"),
        "manifest_after": purged.get("manifest"),
        "retrained": retrained,
        "ledger": chain,
        "seconds": seconds,
        "environment": {"spec": spec.to_json(), "python": platform.python_version()},
        "does_not_cover": [
            "the source data, which belongs to its owner and is not touched",
            "older versions of objects in a versioned bucket, and backups of the run folder",
            "disk blocks and object storage not yet reclaimed: a delete is logical",
            "models that were handed out before the request; publishing a model before and after a drop reveals the shard's delta",
        ],
    }
