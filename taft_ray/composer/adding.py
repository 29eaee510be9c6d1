"""Adding data to a run: its start and its end, as commits. The prefix pass between them is the driver's.

Guarantees: what the run has is neither read nor written again; an addition that another writer overtakes commits nothing.
"""

from __future__ import annotations

from taft_ray.composer.composition import Composition
from taft_ray.errors import UsageError
from taft_ray.plans.additions import Added, AdditionBegun
from taft_ray.run.record import Record
from taft_ray.storage import rundir as names


class Adding:
    """Additions to one run."""

    def __init__(self, record: Record, composition: Composition) -> None:
        self.record, self.composition = record, composition
        self.store = record.store

    def begin(self, data: str, shards: int) -> AdditionBegun:
        """Commit that this data is read in, as so many shards; the fact that says so already, where there is one.

        One addition is under way at a time: the latest takes the place of one that was cut off, whose parts go.
        """
        self.record.refresh()
        state = self.record.state
        if state.adding is not None and state.adding.data == data:
            return state.adding
        fact = AdditionBegun(data, state.next_shard, shards, state.additions_begun)

        def decide() -> AdditionBegun | None:
            now = self.record.state
            return fact if (now.additions_begun, now.next_shard) == (fact.number, fact.first) else None

        if self.record.commit(AdditionBegun, f"addition-begun/{fact.number}", decide) != fact:
            raise UsageError(
                f"another process adds data to {self.store.uri}; wait for it, and run the same command again"
            )
        self._remove_leftovers()
        return fact

    def _remove_leftovers(self) -> None:
        """Erase the parts of additions that were cut off. Their numbers are never used again, so whoever is late erases nothing else."""
        dead = self.record.state.dead_shards()
        if dead:
            listed = self.store.traces(f"{names.CACHE_FOLDER}/shard=")
            self.store.erase([key for key in listed if names.shard_of(key) in dead])

    def admit(self, fact: Added, begun: AdditionBegun) -> Added | None:
        """Commit a finished pass over more data; None where the run is another one by now than the pass rests on."""
        if self.record.spec.additive:
            self.record.current(self.composition.level)  # level before classes come: they are then not summed anew

        def decide() -> Added | None:
            state = self.record.state
            same = state.manifest_key == fact.base and state.adding == begun and len(state.requests) == fact.requests
            return fact if same else None

        committed = self.record.commit(Added, f"added/{begun.number}/{fact.manifest}", decide)
        if committed is not None:
            self.record.publish()
            if not committed.samples:
                self._remove_leftovers()
        return committed
