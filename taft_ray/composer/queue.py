"""The queue of fits: which shard a lane or a retrain should fit next, and the commit of what was fitted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain, islice
from typing import Any

from taft_ray.composer.asking import Clock
from taft_ray.composer.composition import Composition
from taft_ray.composer.leases import LOSSES, Leases, Worker
from taft_ray.composer.reserving import Reserving
from taft_ray.errors import IntegrityError, ObjectMissing
from taft_ray.plans.facts import MonolithTrained, Trained, TriedAgain, fact_of
from taft_ray.plans.slices import resume_from
from taft_ray.plans.state import MONOLITH, QUARANTINED, TRAINED
from taft_ray.run.quarantine import ShardUnreadable, set_unfitted_aside
from taft_ray.run.record import Record
from taft_ray.storage import CheckpointRef, DeltaRef, read_delta

LEAVE = {"leave": True}  # instead of a task
_FRUITLESS = 2  # workers lost in a row, after which the smallest shard shows whether anything can be fitted


class Queue:
    """Tasks for workers. It is known in memory only who holds which shard: see `Leases`."""

    def __init__(
        self, record: Record, composition: Composition, clock: Clock, gone: Callable[[str], bool] = lambda node: False
    ) -> None:
        self.record, self.composition, self.clock = record, composition, clock
        self.reserving = Reserving(record)
        self.leases = Leases(clock, gone)
        self._monolith = False  # whether the comparison model is wanted
        self._closed = False
        self._compares = False
        self.ready: dict[str, float] = {}  # when a lane asked first (unix seconds)
        self.ended: float | None = None  # when the last shard's fit was committed

    def begin(self, timeout: float | None = None) -> None:
        """A training begins: its lanes have not come yet, and shards that nobody could fit are tried again.

        timeout: seconds of silence after which a fit is given up; by default it follows from those of fits so far.
        """
        self.ready.clear()
        self.ended = None
        self.leases = Leases(self.clock, self.leases.gone)
        self.leases.timeout = timeout
        unfitted = tuple(shard.shard for shard in self.record.state.quarantined if shard.unfitted)
        if unfitted:
            op = (
                f"tried-again/{len(self.record.state.fits)}/{sum(s.retries for s in self.record.state.shards.values())}"
            )
            self.record.commit(TriedAgain, op, lambda: TriedAgain(unfitted))

    def take(self, lane: str, together: int = 0, worker: Worker | None = None) -> dict[str, Any] | None:
        """The next task for a lane, on the state as last read: a shard without a delta, largest first; None when nothing is left.

        Where the next shards are so small that several have no more than ``together`` pictures in all: {"several": [task, …]}.
        A lane that asks again gives up what it held (it has finished it, or it died and was restarted). The comparison
        model comes after the last shard.

        worker: the process that asks. A shard whose fit lost its worker comes after the others, by itself. The third time it
        is put into quarantine. On a machine that is to go, or was given up, a worker gets no more work: {"leave": True}.
        """
        self.ready.setdefault(lane, self.clock())
        if self.leases.is_replaced(lane, worker):
            return LEAVE
        for lost in self.leases.arrive(lane, worker):
            self._put_aside_if_hopeless(lost)
        task = None if self._closed else self._task_of(lane, together, worker)
        if task is None or task is LEAVE:
            self.leases.leave(lane)
        return task

    def _task_of(self, lane: str, together: int, worker: Worker | None) -> dict[str, Any] | None:
        """`take`, for a lane that holds nothing."""
        numbers = self._next(together)
        wanted = numbers or (self._monolith and MONOLITH not in self.leases)
        if wanted and worker is not None and self.leases.gone(worker.node):
            return LEAVE
        if numbers:
            tasks = [task for task in self.record.known(lambda: [self._task(number) for number in numbers]) if task]
            if not tasks:  # its inputs changed meanwhile
                return {"wait": True}
            self.leases.lend(lane, numbers)
            return tasks[0] if len(tasks) == 1 else {"several": tasks}
        if self._monolith and MONOLITH not in self.leases:
            if self.leases:  # it is compared with the shards' fits: it must not run beside them
                return {"wait": True}
            task = self.record.known(self.monolith_task)
            self.leases.lend(lane, [MONOLITH])
            return task
        return {"wait": True} if self._reads() else None  # lanes may start beside the prefix pass

    def _next(self, together: int) -> list[int]:
        """The next shards for a lane: one, or as many as have ``together`` pictures while every lane still finds some later."""
        state, losses = self.record.state, self.leases.losses
        free = (number for number in state.pending if number not in self.leases and not losses[number])
        numbers = list(islice(free, 1))
        if numbers and self.leases.fruitless >= _FRUITLESS:
            return list(chain(numbers, free))[-1:]
        if not numbers:  # the one with most losses first, so that what becomes of it is known soon
            lost = (number for number in state.pending if number not in self.leases)
            return sorted(lost, key=lambda number: -losses[number])[:1]
        if self.record.spec.solver != "ridge":  # other solvers' tasks may have something to resume
            return numbers
        pictures = state.shards[numbers[0]].samples
        most = (len(state.pending) - len(self.leases)) // (4 * max(1, len(self.ready)))
        for number in islice(free, max(0, most - 1)):
            pictures += state.shards[number].samples
            if pictures > together:
                break
            numbers.append(number)
        return numbers

    def _put_aside_if_hopeless(self, shard: int | str) -> None:
        """Quarantine for a shard whose fits have lost as many workers as it may."""
        hopeless = isinstance(shard, int) and self.leases.losses[shard] >= LOSSES
        if hopeless and set_unfitted_aside(self.record, int(shard), self.leases.why(shard)):
            self.leases.ended(shard)

    def give_up(self, lane: str) -> None:
        """The lane has failed for good."""
        self.leases.leave(lane)

    def close(self, closed: bool = True) -> None:
        """Send the lanes home (the run failed), or open the queue again."""
        self._closed = closed

    def waiting(self) -> int:
        """How many fits are left."""
        return len(self.record.state.pending) + self._monolith

    def is_open(self) -> bool:
        """Whether a lane that comes now may find something to do, or will."""
        return not self._closed and (self.waiting() > 0 or self._reads())

    def _reads(self) -> bool:
        """Whether data is read in: there will be work."""
        return self.record.state.cached is None or self.record.state.adding is not None

    def monolith_done(self) -> bool | None:
        """Whether the comparison model that was wanted is trained; None when none was."""
        return not self._monolith if self._compares else None

    def want_monolith(self) -> bool:
        """Queue the comparison model, unless it has been trained and no forget has removed it since."""
        self.record.refresh()
        self._monolith = self.record.state.monolith_delta is None
        self._compares = self._compares or self._monolith
        return self._monolith

    def task_for(self, shard: int, resolve: bool = False) -> dict[str, Any] | None:
        """The task of fitting ``shard`` again, as the next generation, from what the cache holds now.

        None when it needs none: another process has fitted it meanwhile, or no sample is left. With ``resolve`` the task
        carries a warm start: the delta that the latest drop took out, while it is still there.
        """
        self.record.refresh()
        state = self.record.state.shards[shard]
        if state.state in (TRAINED, QUARANTINED) or not state.samples:
            return None
        task = self.record.current(lambda: self._task(shard))
        if task is None:  # a forget went in between
            return self.task_for(shard, resolve)
        if resolve:
            start = self.record.state.warm_start(shard)
            task["resolve"] = {"start": start and start.to_json()}
        return task

    def _task(self, shard: int) -> dict[str, Any] | None:
        """None where a private shard's inputs changed while its privacy was reserved."""
        state = self.record.state.shards[shard]
        task = {"shard": shard, "generation": state.current, "parts": self.record.parts([shard])}
        if self.record.spec.privacy is not None:
            reserved = self.reserving.task(shard, task["generation"], task["parts"])
            return reserved and {**task, **reserved}
        checkpoint = resume_from(state.checkpoints)
        return task if checkpoint is None else {**task, "resume": checkpoint.to_json()}

    def monolith_task(self) -> dict[str, Any]:
        """The task of fitting the comparison model on all that the cache holds."""
        state = self.record.state
        return {
            "shard": "monolith",
            "generation": state.rewrites + 1,
            "parts": self.record.parts(self._readable()),
        }

    def _readable(self) -> list[int]:
        """The shards whose cache the comparison model is trained on: those in quarantine have damaged parts."""
        return [number for number, shard in sorted(self.record.state.shards.items()) if shard.quarantine is None]

    def _is_stale(self, fit: Trained | MonolithTrained, shards: Sequence[int]) -> bool:
        """Whether a fit may have seen what is forgotten: it read parts that are no more, or a purge is under way."""
        state = self.record.state
        if any(state.being_purged(shard) for shard in shards):
            return True
        return list(fit.parts or ()) != [part["digest"] for part in self.record.parts(shards)]

    def _throw_away(self, written: Iterable[DeltaRef | CheckpointRef]) -> None:
        """Delete a delta and checkpoints that will not be committed, unless they are, to the byte, ones that were."""
        state = self.record.state
        named = state.delta_keys() | state.start_keys() | state.checkpoint_keys()
        self.record.store.erase([ref.key for ref in written if ref.key not in named])

    def finished(self, result: Mapping[str, Any]) -> bool:
        """Commit a fitted delta: its bytes are checked and it enters the sums. Idempotent by (shard, generation).

        A purge begins a new generation, and a delta of another one is never committed. So whatever of an earlier generation
        lies in storage is dead, whoever finds it when.

        result: see `ShardWorker.fit`. A delta fitted on data of which something was forgotten meanwhile is deleted: False; ask
        for the task again.
        """
        self.leases.ended(result["shard"])
        if result["shard"] == MONOLITH:
            return self._finished_monolith(
                fact_of(MonolithTrained, {name: value for name, value in result.items() if name != "shard"})
            )
        weight = self.record.spec.weight_of(int(result["samples"]))
        terms = result.get("terms")  # of a worker that has summed the rows
        fit = fact_of(Trained, {**{name: value for name, value in result.items() if name != "terms"}, "weight": weight})
        shard, generation = fit.shard, fit.generation
        before: set[str] = set()

        def decide() -> Trained | None:
            state = self.record.state.shards[shard]
            settled = state.state in (TRAINED, QUARANTINED)
            if generation != state.current or settled or self._is_stale(fit, [shard]):
                return None
            self.composition.level()
            before.update(kept.key for kept in state.checkpoints)
            try:
                self.composition.admit(fit, terms)
            except ShardUnreadable:
                raise  # another shard's
            except (ObjectMissing, IntegrityError):
                return None  # a purge or gc took it for a leftover, or it is damaged already: it is fitted again
            if not all(self.record.store.exists(kept.key) for kept in fit.checkpoints):
                return None  # the same
            return fit

        committed = self.record.commit(Trained, f"trained/{shard}/{generation}", decide)
        if committed is None:
            self._throw_away(_written(fit))
            return False
        self.ended = self.clock()
        # a checkpoint that could not be gone on from has been made again
        replaced = before - {kept.key for kept in self.record.state.shards[shard].checkpoints}
        if replaced:
            self.record.store.erase(sorted(replaced))
        if (
            committed.delta.digest != fit.delta.digest
        ):  # another process was first; ours differs: another kind of machine
            self._throw_away(_written(fit))
        return True

    def _finished_monolith(self, fit: MonolithTrained) -> bool:
        self._monolith = False

        def decide() -> MonolithTrained | None:
            if fit.generation != self.record.state.rewrites + 1 or self._is_stale(fit, self._readable()):
                return None
            try:
                read_delta(self.record.store, fit.delta)
            except (ObjectMissing, IntegrityError):
                return None
            return fit

        losses = self.record.state.monolith_losses
        op = f"monolith-trained/{fit.generation}" + (f"/{losses}" if losses else "")
        committed = self.record.commit(MonolithTrained, op, decide)
        # dropped as soon as it was committed, or not committed at all
        if committed is None or self.record.state.monolith_delta is None:
            self._throw_away([fit.delta])
            self.want_monolith()
            return False
        return True


def _written(fit: Trained) -> list[DeltaRef | CheckpointRef]:
    """The objects of a fit."""
    return [fit.delta, *([] if fit.record is None else [fit.record]), *fit.checkpoints]
