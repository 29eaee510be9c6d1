"""Which worker a run has: one that fits tangent models, one that sums rows, or one that does both."""

from __future__ import annotations

from taft_ray.plans.spec import RunSpec
from taft_ray.storage import Store
from taft_ray.workers.both_worker import BothWorker
from taft_ray.workers.row_worker import RowWorker
from taft_ray.workers.shard_worker import ShardWorker


def worker_class(spec: RunSpec) -> type[ShardWorker] | type[RowWorker]:
    """The class of a run's workers."""
    return RowWorker if spec.lean else BothWorker if spec.two_tiers else ShardWorker


def new_worker(
    run: str, spec: RunSpec, classes: int, idle_s: float | None = None, into: Store | None = None
) -> ShardWorker | RowWorker:
    """A worker of the run, in this process."""
    return worker_class(spec)(run, classes, idle_s, into)
