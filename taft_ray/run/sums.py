"""The composition of the deltas in storage, summed from nothing: for `verify` and `gc`, which trust no running composer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch

from taft_ray.additive.options import ADDITIVE
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


def sums_of(store: Store, state: RunState, by_records: bool = False) -> Sums:
    """The exact sums over the shards in the model, by their deltas or by the records beside them."""
    sums = Sums()
    for shard in state.in_tier(by_records):
        ref = shard.member(by_records)
        assert ref is not None
        sums.add(read_terms(store, ref, len(state.classes)), shard.weight)
    return sums


def sums_of_tiers(store: Store, spec: RunSpec, state: RunState) -> dict[bool, Sums]:
    """`sums_of` each tier."""
    return {tier: sums_of(store, state, tier) for tier in spec.tiers}


def snapshots_of(spec: RunSpec, tiers: Mapping[bool, Sums]) -> dict[str, str]:
    """The snapshots that these sums compose to: key -> digest of the object. Any other one is of another set of shards."""
    found = {}
    with one_thread():
        for mode in spec.modes:
            sums = tiers[spec.by_records(mode)]
            if not sums.weight:
                continue
            delta = sums.totals if mode == ADDITIVE else spec.composed(sums, mode)
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
