"""The exact sums of the shards in the model, kept level with the ledger, and the snapshots composed from them."""

from __future__ import annotations

import os
import time
from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from taft_ray.errors import IntegrityError, ObjectMissing, UsageError
from taft_ray.plans.facts import Composed
from taft_ray.plans.state import TRAINED, ShardState
from taft_ray.run.quarantine import ShardUnreadable
from taft_ray.run.record import Record
from taft_ray.run.rows import grow, grown, read_terms
from taft_ray.run.snapshots import is_snapshot, load_arrays, save_snapshot, snapshot_digest
from taft_ray.run.solve import Model, Solve, solve
from taft_ray.storage import DeltaRef, Store
from taft_ray.storage import rundir as names
from taft_ray.sums import Totals

# Of shards' terms kept in memory, so that a drop of a shard that was fitted lately need not read them: how many shards', so that
# memory does not grow with the shards of a run, and how many bytes
TERMS_KEPT = 8
TERMS_BUDGET = 1 << 30
_READERS = 8  # deltas read side by side, where many enter the sums: by a composer that starts again


class Terms:
    """Deltas by key, checked by digest when read; the latest used stay in memory, ``most`` of them up to a budget."""

    def __init__(self, store: Store, budget: int = TERMS_BUDGET, most: int = TERMS_KEPT) -> None:
        self._store, self._budget, self._most = store, budget, most
        self._kept: OrderedDict[str, dict[str, np.ndarray]] = OrderedDict()
        self._bytes = 0

    def read(self, ref: DeltaRef) -> dict[str, np.ndarray]:
        """The int64 terms of a delta; IntegrityError when its bytes are not those of the ledger."""
        key = ref.key
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        return self._keep(key, self._load(ref))

    def read_each(self, refs: Sequence[DeltaRef]) -> Iterator[dict[str, np.ndarray]]:
        """What `read` gives for each, in order; read side by side, within the budget."""
        ahead = min(_READERS, len(refs), max(1, self._budget // max((ref.bytes for ref in refs), default=1)))
        if ahead < 2:
            yield from map(self.read, refs)
            return
        with ThreadPoolExecutor(ahead) as readers:
            coming = deque(readers.submit(self._load, ref) for ref in refs[:ahead])
            try:
                for position, ref in enumerate(refs):
                    terms = coming.popleft().result()
                    if position + ahead < len(refs):
                        coming.append(readers.submit(self._load, refs[position + ahead]))
                    yield self._keep(ref.key, terms)
            finally:
                for reading in coming:
                    reading.cancel()

    def _load(self, ref: DeltaRef) -> dict[str, np.ndarray]:
        return read_terms(self._store, ref)

    def _keep(self, key: str, terms: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        self._kept[key] = terms
        self._bytes += _size(terms)
        while len(self._kept) > 1 and (self._bytes > self._budget or len(self._kept) > self._most):
            self._bytes -= _size(self._kept.popitem(last=False)[1])
        return terms

    def discard(self, keys: set[str]) -> None:
        """Forget these deltas: they are being purged."""
        for key in keys & self._kept.keys():
            self._bytes -= _size(self._kept.pop(key))


class Composition:
    """The sums over the shards in the model, and what they compose to.

    Guarantees: the sums are those of the ledger's state whenever they are asked for, whoever wrote it; their bits do not
    depend on the way there.
    """

    def __init__(self, record: Record, solve: Solve = solve) -> None:
        self.record = record
        self.terms = Terms(record.store)
        self._solve = solve
        self._sums = Totals()
        self._members: dict[int, tuple[DeltaRef, int]] = {}  # shard: (delta, weight), as summed
        self._seen = 0  # of the state's moves: how many the sums have followed
        self._ahead: set[int] = set()  # shards in the sums whose commit had not come when they were last level
        self._composed: dict[str, Model] = {}  # by mode
        self._digests: dict[str, str] = {}

    def sums(self) -> Totals:
        """The sums, level with the ledger as last read."""
        state = self.record.state
        if grow(self._sums, len(state.classes)):
            self._composed, self._digests = {}, {}
        moved = sorted(self._ahead.union(state.moves[self._seen :]))
        wanted = {shard: _member(state.shards[shard]) for shard in moved if state.shards[shard].state == TRAINED}
        leaving = [shard for shard in moved if shard in self._members and self._members[shard] != wanted.get(shard)]
        entering = [shard for shard in wanted if self._members.get(shard) != wanted[shard]]
        if entering and not self._members and self._from_snapshot(wanted):
            entering = []
        if leaving or entering:
            self._composed, self._digests = {}, {}
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

    def _from_snapshot(self, wanted: Mapping[int, tuple[DeltaRef, int]]) -> bool:
        """Start from the sums that the snapshot of an additive run holds, where it is of just these shards: whether it was."""
        state, spec = self.record.state, self.record.spec
        if not spec.additive or wanted.keys() != {shard.shard for shard in state.in_model}:
            return False
        digest = self._recorded(spec.compose)
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
        self._composed, self._digests = {}, {}

    def admit(self, shard: int, ref: DeltaRef, weight: int, terms: Mapping[str, np.ndarray] | None = None) -> None:
        """Add a delta that is about to be committed: an overflow must refuse the fact, not follow it.

        terms: what it adds, where whoever made it has told; else they are read.

        Should the commit fail, the next `sums` takes it out again.
        """
        sums = self.sums()
        if shard not in self._members:
            made = self.terms.read(ref) if terms is None else terms
            sums.add(grown(made, len(self.record.state.classes)), weight)
            self._members[shard] = (ref, weight)
            self._ahead.add(shard)
            self._composed, self._digests = {}, {}

    def model(self, mode: str | None = None) -> Model | None:
        """The composed model, in memory; None when no shard with samples is in it."""
        mode = mode or self.record.spec.compose
        sums = self.sums()
        if not sums.weight:
            return None
        if mode not in self._composed:
            self._composed[mode] = self._solve(self.record.spec, sums, mode, os.cpu_count() or 1)
        return self._composed[mode]

    def digest(self, mode: str | None = None) -> str | None:
        """The digest of the composed model, None when no shard is in it."""
        mode = mode or self.record.spec.compose
        if not any(shard.weight for shard in self.record.state.in_model):
            return None
        known = self._recorded(mode)
        if known is not None:
            return known
        return self._summed(mode)[1]

    def _summed(self, mode: str) -> tuple[Model | None, str | None]:
        """The composed model from the sums, whatever the ledger says, and its digest."""
        delta = self.model(mode)
        if delta is None:
            return None, None
        if mode not in self._digests:
            self._digests[mode] = snapshot_digest(delta)
        return delta, self._digests[mode]

    def computed_digest(self, mode: str | None = None) -> str | None:
        """`digest`, from the deltas themselves."""
        return self._summed(mode or self.record.spec.compose)[1]

    def _recorded(self, mode: str) -> str | None:
        """The digest that the ledger has of a composition of just these deltas; None where it has none, and they are summed."""
        of = self.record.state.members
        recorded = (one for one in reversed(self.record.state.compositions) if one.mode == mode)
        return next((one.digest for one in recorded if one.of == of), None)

    def compose(self, mode: str | None = None) -> dict[str, Any]:
        """Compose and keep a snapshot: {"mode", "digest", "key", "seconds", "shards"}."""
        mode = mode or self.record.spec.compose
        while True:
            composed = self.record.current(lambda: self._snapshot(mode))
            self.remove_old_snapshots(mode)
            # while it was written another writer may have taken a shard out, and purged, before it could be seen there
            # computed, not as the ledger has it: a machine with other instructions may have committed other last bits
            if self.record.known(lambda: self.computed_digest(mode)) == composed["digest"]:
                break
        if composed["seconds"]:
            fact = Composed(
                mode, composed["digest"], composed["seconds"], composed["shards"], self.record.state.members
            )
            self.record.commit(Composed, f"composed/{mode}/{composed['digest']}", lambda: fact)
        return composed

    def _snapshot(self, mode: str) -> dict[str, Any]:
        sums = self.sums()
        began = time.perf_counter()
        delta, digest = self._summed(mode)
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
        digests = [*self._digests.values(), *filter(None, map(self._recorded, self.record.spec.modes))]
        current = {names.composed_key(digest) for digest in digests}
        old = [key for key in listed if key not in current]
        if old:
            self.record.store.erase(old)


def _member(shard: ShardState) -> tuple[DeltaRef, int]:
    return shard.in_sums, shard.weight


def _size(terms: Mapping[str, np.ndarray]) -> int:
    return sum(term.nbytes for term in terms.values())
