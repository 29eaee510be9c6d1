"""The shards that still need a delta, and how many lanes fit them at once."""

from __future__ import annotations

from taft_ray.plans.lane_resources import ANYWHERE, LaneResources
from taft_ray.plans.state import RunState

ROWS_A_LANE = 100_000  # are summed in the time that a lane takes to start


def pending_shards(state: RunState) -> list[int]:
    """Shards without a delta, the largest first: the longest fit must not start last. Dropped shards stay dropped."""
    return list(state.pending)


def lanes_for(
    shards: int, *, gpus: int, cpus: int, threads: int, asked: int | None = None, per_lane: LaneResources = ANYWHERE
) -> int:
    """How many workers train at once: as many as share the GPUs, or one for every ``threads`` cores; never more than shards."""
    available = gpus * per_lane.per_gpu if gpus else max(1, int(cpus / per_lane.cores(threads) + 1e-9))
    return max(1, min(shards, asked if asked is not None else available))


def lanes_of_rows(rows: int, most: int) -> int:
    """How many lanes are worth their start where nothing is fitted, and so many rows are summed."""
    return max(1, min(most, -(-rows // ROWS_A_LANE)))
