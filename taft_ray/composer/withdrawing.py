"""Withdrawing: the models that a run's replicas answered with before a request, and do no more.

Guarantees: a model is said to be withdrawn only when no replica answers with it any more. A replica that acknowledged has read
the ledger up to the request's rewrite. The lease of any other has ended, for it is no longer than the time that was waited here.
The drain passes after that, within which what was under way is handed over or thrown away.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from taft_ray.composer.asking import Clock
from taft_ray.errors import TaftError
from taft_ray.plans.serving import Served, Withdrawn
from taft_ray.run.record import Record
from taft_ray.run.replicas import ReplicaNote, notes_in, remove_note
from taft_ray.storage import Entry

AGAIN_S = 0.1  # between two looks at what replicas say


@dataclass
class _Waiting:
    """One request and one serving. Times by this process's clock; gone: since when no replica has an old model.

    first: the replicas that had a note when it began. Whoever keeps one later reads the ledger after that.
    """

    since: float
    first: frozenset[str] | None = None
    gone: float | None = None
    notes: Sequence[ReplicaNote] = ()  # as they were then
    done: bool = False


class Withdrawing:
    """The withdrawals of one run."""

    def __init__(self, record: Record, clock: Clock = time.monotonic) -> None:
        """clock: seconds, by which a lease is waited out; only its rate has to be that of the replicas' clocks."""
        self.record, self.store, self.clock = record, record.store, clock
        self._waiting: dict[tuple[str, str], _Waiting] = {}

    def withdraw(self, request: str) -> float:
        """Commit what is withdrawn for a request whose cache was rewritten: seconds until the next look.

        0: all of it is committed, or nothing is served. All servings are waited for at the same time.
        """
        self.record.refresh()
        rewritten = self.record.ledger.known_op(f"{request}/rewritten")
        if rewritten is None or self.record.state.requests[request].forgotten is not None:
            return 0.0
        servings = [one.fact for one in self.record.state.servings.values()]
        waiting = [self._waiting.setdefault((request, one.serving), _Waiting(self.clock())) for one in servings]
        if all(one.done for one in waiting):
            return 0.0
        notes = notes_in(
            self.store
        )  # after the beginning: whoever comes later reads the ledger after that, with the rewrite in it
        several = zip(servings, waiting, strict=True)
        return max(self._withdraw(request, rewritten, one, its, notes.get(one.serving, [])) for one, its in several)

    def check(self, request: str) -> None:
        """TaftError while a replica may still answer with a model from before a request."""
        seconds = self.withdraw(request)
        if seconds:
            raise TaftError(
                f"request {request} is not finished: replicas that serve the run may answer with the model before it. "
                f"Run it again in {seconds:.1f} s"
            )

    def _withdraw(
        self, request: str, rewritten: Entry, serving: Served, waiting: _Waiting, notes: Sequence[ReplicaNote]
    ) -> float:
        if waiting.done:
            return 0.0
        if waiting.first is None:
            waiting.first = frozenset(note.replica for note in notes)
        notes = [note for note in notes if note.replica in waiting.first]
        if waiting.gone is None:
            if not notes:  # nobody answers: a replica keeps its note before it does
                waiting.done = True
                return 0.0
            waited = self.clock() - waiting.since
            if any(note.number < rewritten.number for note in notes) and waited < serving.wait:
                return min(AGAIN_S, serving.wait - waited)
            waiting.gone, waiting.notes = self.clock(), notes
        left = waiting.gone + serving.drain - self.clock()
        if left > 0:
            return left
        self._commit(request, rewritten, serving, waiting)
        waiting.done = True
        return 0.0

    def _commit(self, request: str, rewritten: Entry, serving: Served, waiting: _Waiting) -> None:
        lapsed = [note for note in waiting.notes if note.number < rewritten.number]
        acknowledged = [note for note in waiting.notes if note.number >= rewritten.number]
        waited = self.clock() - waiting.since
        for digest in sorted(self._digests(request, lapsed, acknowledged)):
            fact = Withdrawn(
                request, serving.serving, digest, rewritten.number, tuple(note.replica for note in acknowledged),
                tuple(note.replica for note in lapsed), serving.lease, serving.drain, round(waited, 3),
            )  # fmt: skip
            self.record.commit(Withdrawn, f"{request}/withdrawn/{serving.serving}/{digest}", lambda fact=fact: fact)
        for note in lapsed:  # dead: the replica, if it lives, takes another name before it answers again
            remove_note(self.store, serving.serving, note.replica)

    def _digests(self, request: str, lapsed: Sequence[ReplicaNote], acknowledged: Sequence[ReplicaNote]) -> set[str]:
        """The models that replicas answered with since the request was made, and that the run is not any more."""
        asked = self.record.ledger.known_op(f"{request}/requested")
        since = -1 if asked is None else asked.number
        left = {digest for note in acknowledged for digest, number in note.left.items() if number >= since}
        before = left | {digest for note in lapsed for digest in note.digests}
        now = {digest for note in acknowledged for digest in note.digests}
        state, spec = self.record.state, self.record.spec
        now |= {digest for mode in spec.modes if (digest := state.composed_as(mode, spec.by_records(mode)))}
        return before - now
