"""The settings of an additive run's model, level with the sums: chosen by the ledger's policy, again whenever the sums have changed.

A choice is committed with the digest of the sums that it is of. Those of other sums are stale and never used: whoever asks for the
model chooses again.
"""

from __future__ import annotations

from taft_ray.additive.settings import Policy
from taft_ray.composer.composition import Composition
from taft_ray.errors import IntegrityError, ObjectMissing, UsageError
from taft_ray.plans.facts import Tuned
from taft_ray.plans.state import RunState, ShardState
from taft_ray.run.choice import Choice, Rows, choose, rows_of_shard, with_rows
from taft_ray.run.quarantine import ShardUnreadable
from taft_ray.run.record import Record
from taft_ray.storage import digest_json


class Tuning:
    """Chooses settings, and commits them.

    Guarantees: a committed choice is a function of its policy and of the rows in the model when it was committed.
    """

    def __init__(self, record: Record, composition: Composition) -> None:
        self.record, self.composition = record, composition

    def current(self) -> Tuned | None:
        """The settings of the composed model; None where the run has no policy.

        Where the ledger's are stale, they are chosen again, and committed. That reads rows if the policy has several κ.
        """
        while True:
            self.record.refresh()
            tuned = self.record.state.tuned
            if tuned is None or tuned.policy is None or tuned.of == self.record.known(self.composition.digest):
                return tuned
            if not with_rows(self.record.state):
                raise UsageError(f"no shard is in the model of {self.record.store.uri}; train first")
            self._commit(self.choose(tuned.policy).tuned, tuned)

    def adopt(self, policy: Policy, every: bool = False) -> Choice:
        """Choose by a policy, which is the run's from here on. every: also leave pictures out where no choice needs it."""
        while True:
            choice = self.choose(policy, every)
            before = self.record.state.tuned
            if before == choice.tuned or self._commit(choice.tuned, before):
                return choice

    def give_up(self) -> None:
        """Have no policy any more: the model is that of the run's own spec."""
        self.record.refresh()
        while (before := self.record.state.tuned) is not None:
            self._commit(Tuned(None), before)

    def choose(self, policy: Policy, every: bool = False) -> Choice:
        """The choice of a policy for the sums of now; nothing is committed."""
        return self.record.current(lambda: self._chosen(policy, every))

    def _chosen(self, policy: Policy, every: bool) -> Choice:
        arrays = self.composition.model()
        if arrays is None:
            raise UsageError(f"no shard with samples is in the model of {self.record.store.uri}; train first")
        return choose(policy, arrays, lambda: self._rows(self.record.state), every)

    def _rows(self, state: RunState) -> Rows:
        for shard in with_rows(state):
            yield from self._rows_of(shard)

    def _rows_of(self, shard: ShardState) -> Rows:
        try:
            yield from rows_of_shard(self.record.store, shard)
        except (ObjectMissing, IntegrityError) as error:
            raise ShardUnreadable(str(error), shard.shard) from error

    def _commit(self, fact: Tuned, before: Tuned | None) -> bool:
        """Commit a choice in place of another one, unless another writer has changed that, or the sums; whether it was."""

        def decide() -> Tuned | None:
            level = fact.policy is None or self.composition.digest() == fact.of
            return fact if self.record.state.tuned == before and level else None

        number = len(self.record.state.tunings)
        done = self.record.commit(Tuned, f"tuned/{number}/{digest_json(fact.to_json())[:16]}", decide)
        return done == fact
