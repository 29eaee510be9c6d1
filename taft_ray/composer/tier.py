"""The exact sums of one tier of a run, kept level with the ledger: of its deltas, or of the records beside them."""

from __future__ import annotations

import os
from collections.abc import Mapping

import numpy as np

from taft_ray.composer.terms import Terms
from taft_ray.errors import IntegrityError, ObjectMissing
from taft_ray.run.quarantine import ShardUnreadable
from taft_ray.run.record import Record
from taft_ray.run.rows import grow, grown
from taft_ray.run.snapshots import load_arrays, snapshot_digest
from taft_ray.run.solve import Model, Solve
from taft_ray.storage import DeltaRef
from taft_ray.storage import rundir as names
from taft_ray.sums import Totals


class Tier:
    """The sums over the shards in one tier, and what they compose to.

    Guarantees: the sums are those of the ledger's state whenever they are asked for, whoever wrote it. Their bits do not
    depend on the way there.
    """

    def __init__(self, record: Record, terms: Terms, solve: Solve, by_records: bool) -> None:
        """by_records: see `ShardState.member`."""
        self.record, self.terms, self.by_records = record, terms, by_records
        self._solve = solve
        self._sums = Totals()
        self._members: dict[int, tuple[DeltaRef, int]] = {}  # shard: (delta, weight), as summed
        self._seen = 0  # of the state's moves: how many the sums have followed
        self._ahead: set[int] = set()  # shards in the sums whose commit had not come when they were last level
        self._composed: dict[str, Model] = {}  # by mode
        self._digests: dict[str, str] = {}

    @property
    def is_summed(self) -> bool:
        """Whether any shard is in the sums."""
        return bool(self._members)

    def sums(self) -> Totals:
        """The sums, level with the ledger as last read."""
        state = self.record.state
        if grow(self._sums, len(state.classes)):
            self._forget_models()
        moved = sorted(self._ahead.union(state.moves[self._seen :]))
        wanted = {shard: member for shard in moved if (member := self._member(shard)) is not None}
        leaving = [shard for shard in moved if shard in self._members and self._members[shard] != wanted.get(shard)]
        entering = [shard for shard in wanted if self._members.get(shard) != wanted[shard]]
        if entering and not self._members and self._from_snapshot(wanted):
            entering = []
        if leaving or entering:
            self._forget_models()
        for shard in leaving:
            ref, weight = self._members[shard]
            try:
                terms = self.terms.read(ref)
            except (ObjectMissing, IntegrityError):  # purged by another writer, or damaged: what is left is summed anew
                self._sums, self._members, self._seen, self._ahead = Totals(), {}, 0, set()
                return self.sums()
            self._sums.subtract(grown(terms, len(state.classes)), weight)
            del self._members[shard]
            self.terms.discard({ref.key})  # what has left does not come back: not even memory keeps it
        reading = self.terms.read_each([wanted[n][0] for n in entering])
        for shard in entering:
            try:
                terms = next(reading)
            except (ObjectMissing, IntegrityError) as error:
                raise ShardUnreadable(str(error), shard) from error
            self._sums.add(grown(terms, len(state.classes)), wanted[shard][1])
            self._members[shard] = wanted[shard]
        self._seen, self._ahead = len(state.moves), set()
        return self._sums

    def _member(self, number: int) -> tuple[DeltaRef, int] | None:
        shard = self.record.state.shards[number]
        ref = shard.member(self.by_records)
        return None if ref is None else (ref, shard.weight)

    def _forget_models(self) -> None:
        self._composed, self._digests = {}, {}

    def _from_snapshot(self, wanted: Mapping[int, tuple[DeltaRef, int]]) -> bool:
        """Start from the sums that the snapshot of an additive model holds, where it is of just these shards: whether it was."""
        state, spec = self.record.state, self.record.spec
        of_rows = spec.lean or self.by_records
        if not of_rows or wanted.keys() != {shard.shard for shard in state.in_tier(self.by_records)}:
            return False
        digest = self.recorded(spec.compose)
        if digest is None:
            return False
        try:
            totals = load_arrays(self.record.store, names.composed_key(digest))
        except (ObjectMissing, IntegrityError):  # purged, or damaged: summed anew, from the rows
            return False
        fresh = Totals()
        fresh.add(totals)
        self._sums, self._members = fresh, dict(wanted)
        fresh.weight = sum(weight for _, weight in wanted.values())
        fresh.count = len(wanted)
        return True

    def shift(self, moves: Mapping[int, tuple[DeltaRef, DeltaRef | None]], terms: Mapping[str, np.ndarray]) -> None:
        """Follow a committed subtraction without reading what stays: shards whose delta it replaced, by None where none is left.

        terms: the sums over the rows that left. Where these sums are not level with the ledger, the next `sums` follows it.
        """
        if any(shard not in self._members or self._members[shard][0] != old for shard, (old, _) in moves.items()):
            return
        self._sums.correct(terms)
        for shard, (_, new) in moves.items():
            weight = self._members.pop(shard)[1]
            if new is None:
                self._sums.weight -= weight
                self._sums.count -= 1
            else:
                self._members[shard] = new, weight
        self._forget_models()

    def admit(self, shard: int, ref: DeltaRef, weight: int, terms: Mapping[str, np.ndarray] | None) -> None:
        """Add a delta that is about to be committed. terms: what it adds, where whoever made it has told; else they are read."""
        sums = self.sums()
        if shard not in self._members:
            made = self.terms.read(ref) if terms is None else terms
            sums.add(grown(made, len(self.record.state.classes)), weight)
            self._members[shard] = (ref, weight)
            self._ahead.add(shard)
            self._forget_models()

    def model(self, mode: str) -> Model | None:
        """The composed model, in memory; None when no shard with samples is in it."""
        sums = self.sums()
        if not sums.weight:
            return None
        if mode not in self._composed:
            self._composed[mode] = self._solve(self.record.spec, sums, mode, os.cpu_count() or 1)
        return self._composed[mode]

    def summed(self, mode: str) -> tuple[Model | None, str | None]:
        """The composed model from the sums, whatever the ledger says, and its digest."""
        delta = self.model(mode)
        if delta is None:
            return None, None
        if mode not in self._digests:
            self._digests[mode] = snapshot_digest(delta)
        return delta, self._digests[mode]

    def recorded(self, mode: str) -> str | None:
        """The digest that the ledger has of a composition of just these deltas; None where it has none, and they are summed."""
        return self.record.state.composed_as(mode, self.by_records)

    def digests(self) -> list[str]:
        """The digests of the models composed here, of the shards that the ledger has in this tier; none where it went on."""
        level = not self._ahead and self._seen == len(self.record.state.moves)
        return list(self._digests.values()) if level else []
