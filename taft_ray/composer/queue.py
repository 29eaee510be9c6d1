"""The queue of fits: which shard a lane or a retrain should fit next, and the commit of what was fitted."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

from taft_ray.composer.composition import Composition
from taft_ray.errors import IntegrityError, ObjectMissing
from taft_ray.plans.slices import resume_from
from taft_ray.plans.state import QUARANTINED, TRAINED
from taft_ray.run.quarantine import ShardUnreadable
from taft_ray.run.record import Record
from taft_ray.storage import DeltaRef, read_delta

STALE = {"stale": True}


class Queue:
    """Tasks for workers. Who holds which shard is known in memory only: a lost lease costs a fit, never a fact."""

    def __init__(self, record: Record, composition: Composition) -> None:
        self.record, self.composition = record, composition
        self._leases: dict[int | str, str] = {}
        self._monolith = False  # whether the comparison model is wanted
        self._closed = False
        self._compares = False
        self.ready: dict[str, float] = {}  # when a lane asked first (unix seconds)

    def take(self, lane: str, together: int = 0) -> dict[str, Any] | None:
        """The next task for a lane, on the state as last read: a shard without a delta, largest first; None when nothing is left.

        Where the next shards are so small that several have no more than ``together`` pictures in all: {"several": [task, …]}.
        A lane that asks again gives up what it held (it has finished it, or it died and was restarted). The comparison
        model comes after the last shard.
        """
        self.ready.setdefault(lane, time.time())
        self.give_up(lane)
        if self._closed:
            return None
        numbers = self._next(together)
        if numbers:
            self._leases.update(dict.fromkeys(numbers, lane))
            tasks = self.record.known(lambda: [self._task(number) for number in numbers])
            return tasks[0] if len(tasks) == 1 else {"several": tasks}
        if self._monolith and "monolith" not in self._leases:
            if self._leases:  # it is compared with the shards' fits: it must not run beside them
                return {"wait": True}
            self._leases["monolith"] = lane
            return self.record.known(self.monolith_task)
        # lanes start beside the prefix pass: there will be work
        return {"wait": True} if self.record.state.cached is None else None

    def _next(self, together: int) -> list[int]:
        """The next shards for a lane: one, or as many as have ``together`` pictures while every lane still finds some later."""
        state = self.record.state
        free = (number for number in state.pending if number not in self._leases)
        numbers = list(islice(free, 1))
        if not numbers or self.record.spec.solver != "ridge":  # other solvers' tasks may have something to resume
            return numbers
        pictures = state.shards[numbers[0]].samples
        most = (len(state.pending) - len(self._leases)) // (4 * max(1, len(self.ready)))
        for number in islice(free, max(0, most - 1)):
            pictures += state.shards[number].samples
            if pictures > together:
                break
            numbers.append(number)
        return numbers

    def give_up(self, lane: str) -> None:
        """What this lane held is free for others."""
        self._leases = {shard: holder for shard, holder in self._leases.items() if holder != lane}

    def close(self, closed: bool = True) -> None:
        """Send the lanes home (the run failed), or open the queue again."""
        self._closed = closed

    def waiting(self) -> int:
        """How many fits are left."""
        return len(self.record.state.pending) + self._monolith

    def monolith_done(self) -> bool | None:
        """Whether the comparison model that was wanted is trained; None when none was."""
        return not self._monolith if self._compares else None

    def want_monolith(self) -> bool:
        """Queue the comparison model, unless it has been trained and no forget has removed it since."""
        self.record.refresh()
        self._monolith = (self.record.state.monolith or {}).get("delta") is None
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
        if resolve:
            task["resolve"] = {"start": self.record.state.warm_start(shard)}
        return task

    def _task(self, shard: int) -> dict[str, Any]:
        state = self.record.state.shards[shard]
        task = {"shard": shard, "generation": state.current, "parts": self.record.parts([shard])}
        checkpoint = resume_from(state.checkpoints)
        return task if checkpoint is None else {**task, "resume": dict(checkpoint)}

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

    def _is_stale(self, result: Mapping[str, Any], shards: Sequence[int]) -> bool:
        """Whether a fit may have seen what is forgotten: it read parts that are no more, or a purge is under way."""
        state = self.record.state
        if any(state.being_purged(shard) for shard in shards):
            return True
        return list(result["parts"]) != [part["digest"] for part in self.record.parts(shards)]

    def _throw_away(self, result: Mapping[str, Any]) -> dict[str, Any]:
        """Delete a delta and checkpoints that will not be committed, unless they are, to the byte, ones that were."""
        state = self.record.state
        named = state.delta_keys() | state.start_keys() | state.checkpoint_keys()
        written = [ref["key"] for ref in (result["delta"], *result.get("checkpoints", ()))]
        self.record.store.erase([key for key in written if key not in named])
        return dict(STALE)

    def finished(self, result: Mapping[str, Any]) -> dict[str, Any]:
        """Commit a fitted delta: its bytes are checked and it enters the sums. Idempotent by (shard, generation).

        A purge begins a new generation, and a delta of another one is never committed: so whatever of an earlier generation
        lies in storage is dead, whoever finds it when.

        A delta fitted on data of which something was forgotten meanwhile is deleted: {"stale": True}; ask for the task again.
        """
        if result["shard"] == "monolith":
            return self._finished_monolith(result)
        shard, generation, ref = int(result["shard"]), int(result["generation"]), result["delta"]
        weight = self.record.spec.weight_of(int(result["samples"]))
        before: set[str] = set()

        def decide() -> Mapping[str, Any] | None:
            state = self.record.state.shards[shard]
            settled = state.state in (TRAINED, QUARANTINED)
            if generation != state.current or settled or self._is_stale(result, [shard]):
                return None
            self.composition.sums()
            before.update(str(kept["key"]) for kept in state.checkpoints)
            try:
                self.composition.admit(shard, ref, weight)
            except ShardUnreadable:
                raise  # another shard's
            except (ObjectMissing, IntegrityError):
                return None  # a purge or gc took it for a leftover, or it is damaged already: it is fitted again
            if not all(self.record.store.exists(kept["key"]) for kept in result.get("checkpoints", ())):
                return None  # the same
            return {**result, "weight": weight}

        body = self.record.commit("trained", f"trained/{shard}/{generation}", decide)
        if body is None:
            return self._throw_away(result)
        # a checkpoint that could not be gone on from has been made again
        replaced = before - {str(kept["key"]) for kept in self.record.state.shards[shard].checkpoints}
        if replaced:
            self.record.store.erase(sorted(replaced))
        if body["delta"]["digest"] != ref["digest"]:  # another process was first; ours differs: another kind of machine
            self._throw_away(result)
        return body

    def _finished_monolith(self, result: Mapping[str, Any]) -> dict[str, Any]:
        self._monolith = False

        def decide() -> Mapping[str, Any] | None:
            state = self.record.state
            if result["generation"] != state.rewrites + 1 or self._is_stale(result, self._readable()):
                return None
            try:
                read_delta(self.record.store, DeltaRef.from_json(result["delta"]))
            except (ObjectMissing, IntegrityError):
                return None
            return {name: value for name, value in result.items() if name != "shard"}

        losses = self.record.state.monolith_losses
        op = f"monolith-trained/{result['generation']}" + (f"/{losses}" if losses else "")
        body = self.record.commit("monolith-trained", op, decide)
        # dropped as soon as it was committed, or not committed at all
        if body is None or (self.record.state.monolith or {}).get("delta") is None:
            self._throw_away(result)
            self.want_monolith()
            return dict(STALE)
        return body
