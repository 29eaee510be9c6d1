"""What the deltas in storage compose to, summed from nothing: for `verify` and `gc`, which trust no running composer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from taft_ray.plans.spec import RunSpec
from taft_ray.plans.state import RunState
from taft_ray.run.rows import read_terms as read_arrays
from taft_ray.run.snapshots import snapshot_bytes, snapshot_digest
from taft_ray.storage import DeltaRef, Store, digest_bytes
from taft_ray.storage import rundir as names
from taft_ray.sums import Sums


def read_terms(store: Store, ref: DeltaRef, classes: int = 0) -> dict[str, torch.Tensor]:
    """A delta's int64 terms, of so many classes; IntegrityError naming the object when a byte differs."""
    return {name: torch.from_numpy(value) for name, value in read_arrays(store, ref, classes).items()}


def sums_of(store: Store, state: RunState) -> Sums:
    """The exact sums over the shards in the model."""
    sums = Sums()
    for shard in state.in_model:
        sums.add(read_terms(store, shard.in_sums, len(state.classes)), shard.weight)
    return sums


def snapshots_of(spec: RunSpec, sums: Sums) -> dict[str, str]:
    """The snapshots that these sums compose to: key -> digest of the object. Any other one is of another set of shards."""
    if not sums.weight:
        return {}
    found = {}
    with one_thread():
        for mode in spec.modes:
            delta = sums.totals if spec.additive else spec.composed(sums, mode)
            found[names.composed_key(snapshot_digest(delta))] = digest_bytes(snapshot_bytes(delta))
    return found


@contextmanager
def one_thread() -> Iterator[None]:
    """A composition's bits must not depend on the machine's cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
