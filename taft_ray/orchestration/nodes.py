"""Work that is done on every node of a cluster."""

from __future__ import annotations

from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from taft_ray.orchestration.actors import release_worker
from taft_ray.storage import sweep_copies


def sweep_nodes(run: str) -> dict[str, Any]:
    """Remove what processes that have died left of remote objects on the nodes' disks; let the warm worker drop what it keeps."""
    release_worker(run)
    nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
    sweep = ray.remote(num_cpus=0)(sweep_copies)
    swept = ray.get(
        [sweep.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=True)).remote() for node in nodes]
    )
    return {"nodes": len(nodes), "removed": sum(len(names) for names in swept)}
