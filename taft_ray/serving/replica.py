"""A replica: which models it may answer with now, and until when. A plain class, whose clock and loader are handed in.

Guarantees:
* A batch reads one immutable reference per model: the loaded model, its digest and a ledger number.
* An answer is let go only while the lease of its model holds. That is ``lease`` seconds from a read of the ledger's head, at
  which nothing that is in the model had left the run.
* Ledger numbers never go back.
* The replica keeps a note in the run's folder before its first answer. It says there what it has read, before it lengthens its
  lease. A replica whose lease has run out takes a new note, and reads the head after that.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

from taft_ray.errors import TaftError
from taft_ray.log import logger_of
from taft_ray.plans.state import RunState
from taft_ray.run.replicas import ReplicaNote, remove_note, write_note
from taft_ray.serving.following import Following, Wanted, wanted_of
from taft_ray.serving.loading import Load, Model
from taft_ray.serving.options import Source
from taft_ray.serving.publishing import Publishing
from taft_ray.serving.slot import Reference, Slot, Submit
from taft_ray.storage import Store

_log = logger_of(__name__)
_PATIENCE = 4  # polls for which a composition may be missing in the ledger before the replica composes itself
_LEFT = 32  # models from before that a note names


class Unconfirmed(TaftError):
    """The replica has no model that it may answer with: ask another, or later."""


class OfRun:
    """The models of one run in a replica, and their lease."""

    def __init__(
        self, run: str, sources: Sequence[Source], *, serving: str, replica: str, lease: float, clock: Callable[[], float],
        load: Load, submit: Submit, lock: threading.RLock,
    ) -> None:  # fmt: skip
        self.run, self.serving, self.replica, self.lease = run, serving, replica, lease
        self.following = Following(run)
        self._publishing = Publishing(self.following)
        self.slots = [Slot(source) for source in sources]
        self.problem = ""
        self._clock, self._load, self._submit, self._lock = clock, load, submit, lock
        self._store = Store(run)
        self._incarnation = 0
        self._note: ReplicaNote | None = None
        self._note_until = float("-inf")
        self._rewrites = -1
        self._left: dict[str, int] = {}
        self._head = ""  # the digest of the ledger's newest entry, and what follows from it
        self._wanted: list[Wanted | None] = []

    def poll(self) -> None:
        """Read the head, and prepare, activate and acknowledge what follows. Lengthen the lease where all of that is done."""
        try:
            self._poll()
            self.problem = ""
        except Exception as error:  # whatever it is: its lease ends, and the other runs' go on
            known, self.problem = self.problem, str(error)
            if known == self.problem:
                return
            _log.warning("the head of %s could not be confirmed: %s", self.run, error)

    def _poll(self) -> None:
        if self._clock() >= self._note_until and any(slot.is_loaded for slot in self.slots):
            self._register()  # before the head is read
        began = self._clock()
        number = self.following.read()
        state = self.following.state
        serving = state.servings.get(self.serving)
        if serving is None or serving.fact.ended:
            self._stop("its run's ledger does not have this serving, or has it as ended")
            return
        head = self.following.head
        if head != self._head:
            spec = self.following.record.spec
            self._head, self._wanted = head, [wanted_of(spec, state, slot.source) for slot in self.slots]
        wanted = list(zip(self.slots, self._wanted, strict=True))
        for slot, want in wanted:
            self._advance(slot, want, number)
        if any(self._may_answer_stale(slot, want, number, began) for slot, want in wanted):
            return  # the new model is on its way, and the old one has what is left of its lease
        self._acknowledge(number, state)
        if self._clock() >= self._note_until:
            return  # it took too long: the note may count as dead
        self._note_until = began + self.lease
        with self._lock:
            for slot, _ in wanted:
                if slot.active is not None:
                    slot.active.until, slot.active.number = began + self.lease, number
        self._publish()  # last: it may read on in the ledger, of which nothing was acknowledged yet

    def _publish(self) -> None:
        """Give the probabilities of each model, or keep them back, as the run's release gate says."""
        for slot in self.slots:
            if (active := slot.active) is not None:
                active.held_back = self._publishing.held_back(slot.source, active.wanted, active.model.digest)

    def _may_answer_stale(self, slot: Slot, want: Wanted | None, number: int, now: float) -> bool:
        """Whether answers may still come from a model of the slot that has to go; one whose lease has ended goes here."""
        with self._lock:
            active = slot.active
            if active is not None and (want is None or not want.allows(active.wanted)) and active.until <= now:
                self._leave(slot, number)
                slot.why = "the model before has to go, and the one after it is being loaded"
            stale = [held for held in slot.held() if want is None or not want.allows(held.wanted)]
            return any(held.reading or held is slot.active for held in stale)

    def _advance(self, slot: Slot, want: Wanted | None, number: int) -> None:
        """Activate what was loaded where it is still wanted, and load what is."""
        loaded = slot.prepared()
        if want is None:
            with self._lock:
                self._leave(slot, number)
            slot.why = "no shard is in its model"
            return
        if loaded is not None and want.is_of(loaded[0]):
            with self._lock:
                self._note_left(slot, number)
                slot.activate(*loaded, number, self._publishing.at_first())
            _log.info("answers with model %s from ledger entry %d on", loaded[1].digest[:16], number)
        if slot.active is not None and want.is_of(slot.active.wanted):
            return
        still_fine = slot.active is not None and want.allows(slot.active.wanted)
        if want.digest is None and not slot.source.owners:
            slot.missing += 1
            # the composer commits a composition soon; where only more is in the model, the one before holds until then
            if still_fine or (slot.missing < _PATIENCE and slot.active is not None and not want.cheap):
                return
        slot.missing = 0
        slot.prepare(want, self._load, self._submit)

    def _leave(self, slot: Slot, number: int) -> None:
        """Have no active model; batches that read it go on, and their answers are let go while its lease holds."""
        if slot.active is not None:
            self._note_left(slot, number)
            slot.before.append(slot.active)
            slot.active = None

    def _note_left(self, slot: Slot, number: int) -> None:
        if slot.active is not None:
            self._left[slot.active.model.digest] = number
            while len(self._left) > _LEFT:
                self._left.pop(next(iter(self._left)))

    def _register(self) -> None:
        self._incarnation += 1
        began = self._clock()
        before, digests = self._note, self._digests()
        self._note = ReplicaNote(self.serving, f"{self.replica}-{self._incarnation}", -1, digests, dict(self._left))
        write_note(self._store, self._note)
        self._note_until, self._rewrites = began + self.lease, -1
        if before is not None:
            remove_note(self._store, self.serving, before.replica)

    def _digests(self) -> tuple[str, ...]:
        return tuple(sorted({slot.active.model.digest for slot in self.slots if slot.active is not None}))

    def _acknowledge(self, number: int, state: RunState) -> None:
        """Say in the note what was read, where it says less: a rewrite of the run's data, or another model."""
        if self._note is None:
            return
        if state.rewrites == self._rewrites and self._digests() == self._note.digests:
            return
        note = ReplicaNote(self.serving, self._note.replica, number, self._digests(), dict(self._left))
        write_note(self._store, note)
        self._note, self._rewrites = note, state.rewrites

    def _stop(self, why: str) -> None:
        with self._lock:
            for slot in self.slots:
                slot.active, slot.why = None, why
        self.close()

    def close(self) -> None:
        """Answer no more; the note goes."""
        with self._lock:
            for slot in self.slots:
                slot.active = None
                for held in slot.before:
                    held.until = float("-inf")
        note, self._note, self._note_until = self._note, None, float("-inf")
        if note is not None:
            with suppress(TaftError, OSError):
                remove_note(self._store, self.serving, note.replica)


class Replica:
    """The models of a pool in one process."""

    def __init__(
        self, sources: Iterable[Source], *, serving: str, replica: str, lease: float, clock: Callable[[], float], load: Load,
        submit: Submit,
    ) -> None:  # fmt: skip
        """clock: monotonic seconds. submit: runs ``load`` in a thread, as an executor's does."""
        self._clock, self._lock = clock, threading.RLock()
        by_run: dict[str, list[Source]] = {}
        for source in sources:
            by_run.setdefault(source.run, []).append(source)
        self.runs = [
            OfRun(run, several, serving=serving, replica=replica, lease=lease, clock=clock, load=load, submit=submit,
                  lock=self._lock)
            for run, several in by_run.items()
        ]  # fmt: skip
        self._places: Mapping[str, tuple[OfRun, Slot]] = {
            slot.source.name: (of_run, slot) for of_run in self.runs for slot in of_run.slots
        }

    def poll(self) -> None:
        """Look at the head of every run."""
        for of_run in self.runs:
            of_run.poll()

    def waits(self) -> bool:
        """Whether a model is being loaded, or one that there is has no lease yet."""
        return any(
            slot.coming or (slot.active and slot.active.until < self._clock()) for _, slot in self._places.values()
        )

    def loading(self) -> list[Future[Model]]:
        """The loads under way."""
        return [slot.coming for _, slot in self._places.values() if slot.coming is not None]

    def read(self, name: str) -> Reference:
        """The reference to a model, for one batch, which has to be `released`. Unconfirmed where there is none now."""
        of_run, slot = self._places[name]
        with self._lock:
            held = slot.active
            if held is None:
                raise Unconfirmed(f"{name} cannot be answered: {of_run.problem or slot.why}")
            if self._clock() >= held.until:
                why = of_run.problem or "its ledger could not be read in time"
                raise Unconfirmed(f"{name} cannot be answered: {why}")
            held.reading += 1
            return Reference(held, held.model, held.model.digest, held.number, held.held_back)

    def released(self, reference: Reference) -> bool:
        """The batch is done: whether its answers may be let go. They may not where the lease has run out meanwhile."""
        with self._lock:
            reference.held.reading -= 1
            return self._clock() < reference.held.until

    def model(self, name: str) -> Model | None:
        """The model that there is, whether it may answer or not: for what does not change, such as the size of its pictures."""
        slot = self._places[name][1]
        return None if slot.active is None else slot.active.model

    def names(self) -> list[str]:
        return list(self._places)

    def told(self, name: str) -> dict[str, Any]:
        """The answer to GET /model: {"name", "composed", "classes", "ledger", "confirmed", "requests_open", "held"?, "why"?}."""
        of_run, slot = self._places[name]
        with self._lock:
            held = slot.active
            fine = held is not None and self._clock() < held.until
            told: dict[str, Any] = {
                "name": name,
                "composed": None if held is None else held.model.digest,
                "classes": [] if held is None else list(held.model.classes),
                "ledger": None if held is None else held.number,
                "confirmed": fine,
                **({} if held is None or held.held_back is None else {"held": held.held_back}),
            }
        if of_run.following.is_read:
            told["requests_open"] = sum(one.forgotten is None for one in of_run.following.state.requests.values())
        return told if fine else {**told, "why": of_run.problem or slot.why}

    def close(self) -> None:
        """Answer no more."""
        for of_run in self.runs:
            of_run.close()
