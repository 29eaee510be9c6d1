"""Which composer a verb asks: one in this process, or the cluster's where this process has joined one."""

from __future__ import annotations

import os
import sys
from typing import cast

from taft_ray.composer.composer import Composer


def in_cluster() -> bool:
    """Whether this process has joined a Ray, or will as soon as it needs one; does not import it."""
    ray = sys.modules.get("ray")
    return bool(os.environ.get("RAY_ADDRESS")) or (ray is not None and ray.is_initialized())


def composer_of(run: str) -> Composer:
    """The run's composer for what changes a run: the cluster's, which has its sums in memory, or one here."""
    if not in_cluster():
        return Composer(run)
    from taft_ray.orchestration.actors import composer_for

    return cast(Composer, composer_for(run))
