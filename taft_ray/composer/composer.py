"""The composer: single writer of the ledger, keeper of the exact sums. A plain class; `composer_for` puts Ray around it.

It holds no truth: killed at any instant, it rebuilds itself from the ledger. Every operation has an id and is idempotent,
because Ray runs a method again after a crash. Should there be two, every commit is decided on what the other wrote.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from taft_ray.additive.options import ADDITIVE
from taft_ray.composer.adding import Adding
from taft_ray.composer.asking import Clock
from taft_ray.composer.composition import Composition
from taft_ray.composer.forgetting import Forgetting
from taft_ray.composer.leases import Worker
from taft_ray.composer.mending import Mending
from taft_ray.composer.queue import Queue
from taft_ray.composer.selection import Selection
from taft_ray.errors import IntegrityError, ObjectMissing, StorageError
from taft_ray.plans.additions import Added, AdditionBegun
from taft_ray.plans.facts import Cached, Created, Damage, F, Repaired, Tuned
from taft_ray.plans.lane_resources import LaneResources, LaneResourcesSet
from taft_ray.plans.serving import Served
from taft_ray.plans.state import RunState
from taft_ray.run.quarantine import damaged_objects, set_aside, set_monolith_aside
from taft_ray.run.record import Record
from taft_ray.run.solve import Solve, solve
from taft_ray.run.turn import Turns
from taft_ray.storage import DeltaRef, digest_bytes
from taft_ray.storage import rundir as names
from taft_ray.storage.digest import canonical_json

if TYPE_CHECKING:
    from taft_ray.composer.tuning import Tuning


class Composer:
    """One a run. Methods are short; long work (fits, the prefix) is done by others, who report here."""

    def __init__(
        self,
        run: str,
        solve: Solve = solve,
        clock: Clock = time.time,
        gone: Callable[[str], bool] = lambda node: False,
    ) -> None:
        """solve: composes sums. clock: unix seconds, by which requests are due and trainings are timed.

        gone: whether a machine is lost or about to go, by its node's id.
        """
        self._run, self._solve, self._clock, self._gone = run, solve, clock, gone
        self._progress: dict[str, tuple[int, int]] = {}

    # Made when they are first asked for: a damaged ledger is the error of a call, not the death of an actor

    @cached_property
    def record(self) -> Record:
        return Record(self._run)

    @cached_property
    def composition(self) -> Composition:
        return Composition(self.record, self._solve)

    @cached_property
    def queue(self) -> Queue:
        return Queue(self.record, self.composition, self._clock, self._gone)

    @cached_property
    def adding(self) -> Adding:
        return Adding(self.record, self.composition)

    @cached_property
    def forgetting(self) -> Forgetting:
        return Forgetting(self.record, self.composition, self._clock)

    @cached_property
    def turns(self) -> Turns:
        return Turns(self.record.store)

    @cached_property
    def mending(self) -> Mending:
        return Mending(self.record, self.composition)

    @cached_property
    def tuning(self) -> Tuning:
        from taft_ray.composer.tuning import Tuning  # with scipy, which no other command needs

        return Tuning(self.record, self.composition)

    def _read_anew(self) -> None:
        for name in ("record", "composition", "queue", "adding", "forgetting", "turns", "mending", "tuning"):
            self.__dict__.pop(name, None)

    def _check_folder(self) -> None:
        if self.record.was_exchanged():  # under a composer that stayed warm: nothing it knows holds any more
            self._read_anew()

    def ready(self) -> bool:
        return True

    def now(self) -> float:
        """The time by which a training's times are told (unix seconds): clocks of machines differ."""
        return self._clock()

    # --- facts

    def begin(
        self,
        environment: Mapping[str, Any],
        id_key_digest: str | None,
        fit_timeout: float | None = None,
        per_lane: LaneResources | None = None,
    ) -> None:
        """The run's first fact, and what a crash or an older copy of the folder left to do. Idempotent.

        fit_timeout: see `Queue.begin`. per_lane: what workers take from now on; as before by default.
        """
        self._check_folder()
        spec = digest_bytes(canonical_json(self.record.spec.to_json()))
        fact = Created(spec, id_key_digest, dict(environment), platform.python_version())
        self.record.commit(Created, "created", lambda: fact)
        if per_lane is not None and per_lane != self.record.state.per_lane:
            said = LaneResourcesSet(per_lane, self.record.state.per_lane_set)
            self.commit(said, f"lane-resources-set/{said.number}")
        self.queue.begin(fit_timeout)
        if self.record.spec.privacy is not None:
            self.queue.reserving.restore()
        self.recover()
        self.forgetting.tidy()

    def commit(self, fact: F, op: str) -> F:
        """Commit a measurement or another fact that depends on nothing else, once."""
        return self.record.commit(type(fact), op, lambda: fact) or fact

    def admit_cache(self, fact: Cached) -> None:
        """Commit a finished prefix pass, once: should another have been first, what this one wrote since goes again."""
        self.commit(fact, "cached")
        self.record.publish()
        self.forgetting.tidy()

    def begin_addition(self, data: str, shards: int) -> AdditionBegun:
        """Commit that more data is read in: see `Adding.begin`."""
        self._check_folder()
        return self.adding.begin(data, shards)

    def admit_addition(self, fact: Added, begun: AdditionBegun) -> Added | None:
        """Commit a finished pass over more data: see `Adding.admit`."""
        committed = self.adding.admit(fact, begun)
        if committed is not None:
            self.forgetting.tidy()
        return committed

    def snapshot(self) -> RunState:
        """The state, for the driver's decisions and reports."""
        self._check_folder()
        self.record.refresh()
        return self.record.state

    def class_names(self) -> list[str]:
        """The classes, from the ledger."""
        self.record.refresh()
        if self.record.state.cached is None:
            raise StorageError(f"{self.record.store.uri} has no manifest yet: train first")
        return list(self.record.state.classes)

    def class_count(self) -> int:
        """K."""
        return len(self.class_names())

    # --- training

    def take(
        self,
        lane: str,
        results: Sequence[Mapping[str, Any]] = (),
        together: int = 0,
        worker: Worker | None = None,
    ) -> dict[str, Any] | None:
        """Commit what a lane has fitted, if it brings something; then the next task for it: see `Queue.take`."""
        for result in results:
            self.queue.finished(result)
        self.record.refresh()
        self.forgetting.finish_purges()
        return self.queue.take(lane, together, worker)

    def give_up(self, lane: str) -> None:
        """A lane has failed for good."""
        self.queue.give_up(lane)

    def close_queue(self, closed: bool = True) -> None:
        self.queue.close(closed)

    def want_monolith(self) -> bool:
        return self.queue.want_monolith()

    def task_for(self, shard: int, resolve: bool = False) -> dict[str, Any] | None:
        return self.queue.task_for(shard, resolve)

    def finished(self, result: Mapping[str, Any]) -> bool:
        return self.queue.finished(result)

    def progress(self, lane: str, done: int, total: int) -> None:
        """A lane says how far its fit is."""
        self._progress[lane] = (done, total)
        self.queue.leases.hear(lane)

    def failed(self, lane: str, error: str) -> None:
        """A lane's fit ended with this kind of error: see `Leases.failed`."""
        self.queue.leases.failed(lane, error)

    def steps(self) -> int:
        """How often this training went on: see `Leases.steps`."""
        return self.queue.leases.steps

    def training_status(self) -> dict[str, Any]:
        """For the driver's progress line."""
        state = self.record.state
        trained = len(state.in_model)
        return {
            "shards": trained + len(state.pending),
            "trained": trained,
            "monolith": self.queue.monolith_done(),
            "left": self.queue.waiting(),
            "open": self.queue.is_open(),
            "lanes": dict(self._progress),
            "ready": dict(self.queue.ready),
            "ended": self.queue.ended,
            "silent": self.queue.leases.silent(),
        }

    # --- composition

    def compose(self, mode: str | None = None) -> dict[str, Any]:
        """Compose the shards in the model and keep a snapshot: {"mode", "digest", "key", "seconds", "shards"}."""
        return self.composition.compose(mode)

    def served(self, mode: str | None = None) -> tuple[dict[str, Any], Tuned | None]:
        """`compose`, and the settings of that model by the run's policy, chosen again and committed where they were stale."""
        while True:
            composed = self.compose(mode)
            tuned = self.tuning.current() if self.record.state.tuned and composed["mode"] == ADDITIVE else None
            if tuned is None or tuned.of == composed["digest"]:
                return composed, tuned

    def composed_digest(self) -> str | None:
        """The digest of the composed model, None when no shard is in it."""
        return self.record.current(self.composition.digest)

    def begin_serving(self, fact: Served) -> None:
        """Commit that replicas answer with this run's models from now on, and compose those: before the first of them is asked."""
        self.commit(fact, f"served/{fact.serving}")
        for mode in fact.modes:
            self.served(mode)

    def end_serving(self, serving: str) -> None:
        """Commit that no replica of a serving may answer any more; nothing where there was none. Idempotent."""
        self.record.refresh()
        there = self.record.state.servings.get(serving)
        if there is not None:
            self.commit(replace(there.fact, ended=True), f"served/{serving}/ended")

    # --- damage

    def examine(self, shards: Sequence[int] | None = None) -> list[int]:
        """Put those of these shards (of all by default) that are damaged into quarantine: which that were, see `set_aside`.

        One that another caller has put there meanwhile counts.
        """
        self.record.refresh()
        asked = sorted(self.record.state.shards) if shards is None else shards
        found = set(set_aside(self.record, asked))
        if shards is not None:
            found |= {shard for shard in shards if self.record.state.shards[shard].quarantine is not None}
        return sorted(found)

    def examine_deltas(self, budget: int) -> list[int]:
        """Put shards in the model into quarantine whose delta is gone or damaged: which.

        budget: bytes that may be read to compare digests; of more deltas only the sizes are compared.
        """
        self.record.refresh()
        refs = [ref for ref, _ in self._deltas()]
        if sum(ref.bytes for ref in refs) <= budget:
            return self.examine_these(damaged_objects(self.record.store, refs))
        there = {info.key: info.size for info in self.record.store.list(f"{names.DELTAS_FOLDER}/")}
        return self.examine_these([ref for ref in refs if there.get(ref.key) != ref.bytes])

    def examine_these(self, objects: Iterable[Damage | DeltaRef]) -> list[int]:
        """Examine the shards whose deltas are among these objects."""
        keys = {one.key for one in objects}
        shards = sorted({shard for ref, shard in self._deltas() if ref.key in keys})
        return self.examine(shards) if shards else []

    def _deltas(self) -> list[tuple[DeltaRef, int]]:
        """The deltas and records in the model, each with its shard."""
        state, tiers = self.record.state, self.record.spec.tiers
        return [(ref, s.shard) for tier in tiers for s in state.in_tier(tier) if (ref := s.member(tier)) is not None]

    def examine_everything(self) -> dict[str, Any]:
        """Read all that the run needs, put aside what is damaged: see `Mending.examine`."""
        self._check_folder()
        self.forgetting.mend_tombstones()
        return self.mending.examine()

    def manifest_is_whole(self) -> bool:
        """Whether the list of samples can be read: see `Mending.manifest_is_whole`."""
        self._check_folder()
        return self.mending.manifest_is_whole()

    def examine_monolith(self) -> bool:
        """Put the comparison model aside where it is damaged; whether it was."""
        self.record.refresh()
        return set_monolith_aside(self.record)

    def repaired(self, made: Mapping[str, Any]) -> Repaired | None:
        """Commit what a repair has made again: see `Mending.repaired`."""
        return self.mending.repaired(made)

    def monolith_task(self) -> dict[str, Any]:
        """The comparison model's task, for a repair."""
        return self.record.current(self.queue.monolith_task)

    # --- forgetting

    def estimate(self, selection: Selection, mode: str, gpu_hour_price: float | None = None) -> dict[str, Any]:
        return self.forgetting.estimate(selection, mode, gpu_hour_price)

    def check_request(self, selection: Selection, mode: str) -> None:
        """Refuse a request that will be refused; damage is for the request itself to meet."""
        with suppress(IntegrityError, ObjectMissing):
            self.record.current(lambda: self.forgetting.plan(selection, mode))

    def request_forget(self, selection: Selection, mode: str, deadline: float | None = None) -> dict[str, Any]:
        """Commit a request and, unless it has a deadline, drop its shards at once: see `Forgetting.answer`.

        The answer has in "forgotten_before" the earlier requests that answer for some of its ids.
        """
        with suppress(IntegrityError, ObjectMissing):  # what is stuck of others is told by whoever carries out
            self.recover_unless_in_hand()
        request = self.forgetting.request(selection, mode, deadline)
        state = self.record.state.requests[request]
        if deadline is None and state.dropped is None and not state.unplaced:
            self.forgetting.drop(request)
        before = self.forgetting.forgotten_before(selection.ids, request)
        return {**self.forgetting.answer(request), "forgotten_before": before}

    def resume_forget(self, request: str) -> dict[str, Any]:
        """Drop and purge, whatever of it is not done: see `Forgetting.answer`."""
        return self.forgetting.resume(request)

    def withdraw(self, request: str) -> float:
        """Seconds until replicas may have stopped answering with the model before a request: see `Withdrawing.withdraw`."""
        return self.forgetting.withdrawing.withdraw(request)

    def conclude_forget(self, request: str, told: Mapping[str, Any]) -> dict[str, Any]:
        return self.forgetting.conclude(request, told)

    def certificate(self, request: str) -> dict[str, Any]:
        self.record.refresh()
        return self.forgetting.certificate(request)

    def due_requests(self, first: Sequence[str] = ()) -> list[str]:
        """Requests to carry out now, with ``first``: those that a crash cut off, and those whose time has come."""
        with suppress(IntegrityError, ObjectMissing):  # they are carried out one by one, and each tells
            self.recover_unless_in_hand()
        return self.forgetting.due(first)

    def is_forgotten(self, request: str) -> bool:
        """Whether a request has been carried out, and has its certificate."""
        self.record.refresh()
        return self.record.state.requests[request].forgotten is not None

    def recover(self) -> None:
        """Finish what a crash cut off, and forget again what an older copy of the folder brought back."""
        self._check_folder()
        try:
            self.forgetting.recover()
        finally:
            self.forgetting.finish_purges()

    def recover_unless_in_hand(self) -> None:
        """`recover`, where purges that another command is carrying out are not taken for cut off."""
        self._check_folder()
        if self.turns.taken_elsewhere():
            self.forgetting.recover()
        else:
            self.recover()

    def recover_what_can_be(self) -> str | None:
        """`recover`, where damage that is in its way is told and not raised."""
        try:
            self.recover()
        except (IntegrityError, ObjectMissing) as error:
            return str(error)
        return None
