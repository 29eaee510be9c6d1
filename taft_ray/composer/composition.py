"""Compositions of the shards in the model: sums level with the ledger, tier by tier, and snapshots composed from them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from taft_ray.composer.terms import Terms
from taft_ray.composer.tier import Tier
from taft_ray.errors import UsageError
from taft_ray.plans.facts import Composed, Trained
from taft_ray.run.record import Record
from taft_ray.run.snapshots import is_snapshot, save_snapshot
from taft_ray.run.solve import Model, Solve, solve
from taft_ray.storage import rundir as names


class Composition:
    """The compositions of a run: of its deltas and, in a run of two tiers, of the records beside them."""

    def __init__(self, record: Record, solve: Solve = solve) -> None:
        self.record = record
        self.terms = Terms(record.store)
        self.tiers = {tier: Tier(record, self.terms, solve, tier) for tier in record.spec.tiers}

    def tier(self, mode: str | None = None) -> Tier:
        """The tier that a composition is of; that of the model by default."""
        return self.tiers[self.record.spec.by_records(mode or self.record.spec.compose)]

    def level(self) -> None:
        """Bring all sums level with the ledger as last read."""
        for tier in self.tiers.values():
            tier.sums()

    def follow(self) -> None:
        """Bring the model's sums level, and those beside it where they were summed already: a subtraction waits for no delta."""
        for tier in self.tiers.values():
            if tier is self.tier() or tier.is_summed:
                tier.sums()

    def admit(self, fit: Trained, terms: Mapping[str, np.ndarray] | None = None) -> None:
        """Add a fit that is about to be committed: an overflow must refuse the fact, not follow it.

        terms: the sums over its rows, where whoever made them has told.

        Should the commit fail, the next sums take it out again.
        """
        lean = self.record.spec.lean
        self.tiers[False].admit(fit.shard, fit.delta, fit.weight, terms if lean else None)
        if fit.record is not None:
            self.tiers[True].admit(fit.shard, fit.record, fit.weight, terms)

    def model(self, mode: str | None = None) -> Model | None:
        """The composed model, in memory; None when no shard with samples is in it."""
        return self.tier(mode).model(mode or self.record.spec.compose)

    def digest(self, mode: str | None = None) -> str | None:
        """The digest of the composed model, None when no shard is in it."""
        mode = mode or self.record.spec.compose
        tier = self.tier(mode)
        if not any(shard.weight for shard in self.record.state.in_tier(tier.by_records)):
            return None
        return tier.recorded(mode) or tier.summed(mode)[1]

    def computed_digest(self, mode: str | None = None) -> str | None:
        """`digest`, from the deltas themselves."""
        return self.tier(mode).summed(mode or self.record.spec.compose)[1]

    def compose(self, mode: str | None = None) -> dict[str, Any]:
        """Compose and keep a snapshot: {"mode", "digest", "key", "seconds", "shards"}."""
        mode = mode or self.record.spec.compose
        while True:
            composed = self.record.current(lambda: self._snapshot(mode))
            self.remove_old_snapshots(mode)
            # Another writer may have taken a shard out, and purged, before the snapshot could be seen there. The digest is
            # computed, not the ledger's: a machine with other instructions may have committed other last bits
            if self.record.known(lambda: self.computed_digest(mode)) == composed["digest"]:
                break
        if composed["seconds"]:
            of = self.record.state.members_of(self.tier(mode).by_records)
            fact = Composed(mode, composed["digest"], composed["seconds"], composed["shards"], of)
            self.record.commit(Composed, f"composed/{mode}/{composed['digest']}", lambda: fact)
        return composed

    def _snapshot(self, mode: str) -> dict[str, Any]:
        tier = self.tier(mode)
        sums = tier.sums()
        began = time.perf_counter()
        delta, digest = tier.summed(mode)
        if delta is None or digest is None:
            raise UsageError(f"no shard with samples is in the model of {self.record.store.uri}; train first")
        key = names.composed_key(digest)
        fresh = not is_snapshot(self.record.store, key, delta)  # a damaged one is written again
        if fresh:
            save_snapshot(self.record.store, delta, digest)
        seconds = time.perf_counter() - began if fresh else 0.0
        return {"mode": mode, "digest": digest, "key": key, "seconds": seconds, "shards": sums.count}

    def remove_old_snapshots(self, mode: str | None = None) -> None:
        """An old snapshot may hold what has been forgotten."""
        listed = [info.key for info in self.record.store.list(f"{names.COMPOSED_FOLDER}/")]
        # after the listing: a newer snapshot in it is of what the ledger says by now
        self.record.current(lambda: self.digest(mode))
        recorded = (self.tier(one).recorded(one) for one in self.record.spec.modes)
        digests = [*(digest for tier in self.tiers.values() for digest in tier.digests()), *filter(None, recorded)]
        current = {names.composed_key(digest) for digest in digests}
        old = [key for key in listed if key not in current]
        if old:
            self.record.store.erase(old)
