"""The state of a run is the fold of its ledger's facts, one after the other."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from taft_ray.plans import facts
from taft_ray.plans.facts import malformed, read_fact
from taft_ray.plans.releases import ReleaseState
from taft_ray.plans.serving import ServingState
from taft_ray.plans.slices import after_fit
from taft_ray.plans.state import (
    DROPPED,
    EMPTY,
    FITTING,
    PENDING,
    QUARANTINED,
    SUBTRACT,
    TRAINED,
    Entry,
    MonolithState,
    Quarantine,
    RequestState,
    RunState,
    ShardState,
)
from taft_ray.storage import MALFORMED


def apply(state: RunState, entry: Entry) -> None:
    """Fold one more entry in; IntegrityError for one that no taft_ray of this version writes."""
    fact = read_fact(entry.kind, entry.body)
    try:
        _fold(state, fact, entry.time)
    except MALFORMED as error:
        raise malformed(entry.kind, error) from error
    state.entries += 1


def _fold(state: RunState, fact: facts.Fact, time: str) -> None:
    match fact:
        case facts.Created():
            state.created, state.created_time = fact, time
        case facts.LaneResourcesSet():
            state.per_lane, state.per_lane_set = fact.per_lane, state.per_lane_set + 1
        case facts.Cached():
            state.cached, state.manifest, state.manifest_key = fact, fact.manifest, fact.manifest_key
            for number, samples in enumerate(fact.samples):
                state.shards[number] = ShardState(number, samples, state=PENDING if samples else EMPTY)
            _order_pending(state, state.shards)
        case facts.AdditionBegun():
            state.adding, state.additions_begun = fact, state.additions_begun + 1
            state.reserved = max(state.reserved, fact.first + fact.shards)
        case facts.Added():
            _add(state, fact)
        case facts.DpReserved():
            state.reservations.setdefault(fact.shard, []).append(fact)
        case facts.Trained():
            _train(state, fact)
        case facts.MonolithTrained():
            state.monolith = MonolithState(fact, fact.delta)
        case facts.Quarantined(shard="monolith"):
            state.monolith_losses += 1
            if state.monolith is not None:
                state.monolith.delta, state.monolith.lost = None, True
        case facts.Quarantined():
            _quarantine(state, fact, time)
        case facts.TriedAgain():
            _try_again(state, fact)
        case facts.Repaired():
            _repair(state, fact)
        case facts.ForgetRequested():
            _request(state, fact, time)
        case facts.Placed():
            request = state.requests[fact.request]
            request.shards, request.unplaced = fact.shards, False
        case facts.Dropped():
            _drop(state, fact)
        case facts.Rewritten():
            _rewrite(state, fact)
        case facts.Purged():
            state.requests[fact.request].purged = fact
            state.unpurged.pop(fact.request, None)
        case facts.StartPurged():
            state.requests[fact.request].start_purged = fact
        case facts.KeyDestroyed():
            state.key_destroyed = True
        case facts.Forgotten():
            state.requests[fact.request].forgotten = fact
        case facts.Signed():
            state.requests[fact.request].signed = fact
        case facts.TrainingFinished():
            state.trainings.append(fact)
        case facts.Evaluated():
            state.evaluations.append(fact)
        case facts.Composed():
            state.compositions.append(fact)
            for serving in state.open_servings:
                if fact.mode in serving.fact.modes:
                    serving.note(fact.digest, fact.mode, time)
        case facts.Tuned():
            state.tunings.append(fact)
        case facts.Released():
            spent = {shard: len(several) for shard, several in state.reservations.items()}
            state.releases[fact.release] = ReleaseState(fact, state.entries, time, spent=spent)
        case facts.RecallNotified():
            state.releases[fact.release].notices.append((state.entries, fact))
        case facts.RecallTold():
            state.releases[fact.release].tellings.append((state.entries, time, fact))
        case facts.ReleaseGateSet():
            state.gates.append(fact)
        case facts.Served():
            _serve(state, fact, time)
        case facts.Withdrawn():
            state.requests[fact.request].withdrawn.append(fact)
            serving = state.servings[fact.serving]
            serving.note(fact.digest, None, None)
            serving.withdrawn.append((time, fact))
        case facts.RetentionSet():
            state.retentions.append(fact)


def _serve(state: RunState, fact: facts.Served, time: str) -> None:
    known = state.servings.get(fact.serving)
    if known is not None:
        known.fact, known.ended = fact, time if fact.ended else None
        return
    began = state.servings[fact.serving] = ServingState(fact, state.entries, time)
    for mode in fact.modes:
        if (digest := state.composed_now(mode)) is not None:
            began.note(digest, mode, time)


def _order_pending(state: RunState, numbers: Iterable[int]) -> None:
    waiting = [shard for shard in map(state.shards.__getitem__, numbers) if shard.state == PENDING]
    waiting.sort(key=lambda shard: (-shard.samples, shard.shard))
    state.pending = dict.fromkeys(shard.shard for shard in waiting)


def _add(state: RunState, fact: facts.Added) -> None:
    state.additions.append(fact)
    state.adding, state.added_at = None, state.entries
    state.monolith = None  # it is of other data
    state.manifest, state.manifest_key, state.rewrites = fact.manifest, fact.manifest_key, state.rewrites + 1
    for number, samples in zip(fact.shards, fact.samples, strict=True):
        state.shards[number] = ShardState(number, samples, state=PENDING if samples else EMPTY)
    _order_pending(state, [*state.pending, *fact.shards])


def _train(state: RunState, fact: facts.Trained) -> None:
    shard = state.shards[fact.shard]
    state.pending.pop(shard.shard, None)
    state.moves.append(shard.shard)
    shard.generation, shard.samples, shard.weight = fact.generation, fact.samples, fact.weight
    shard.delta, shard.facts, shard.state = fact.delta, fact.facts, TRAINED
    shard.record = fact.record
    shard.returning = False
    shard.checkpoints = after_fit(shard.checkpoints, fact.checkpoints)
    state.fits.append(fact)


def _quarantine(state: RunState, fact: facts.Quarantined, time: str) -> None:
    shard = state.shards[int(fact.shard)]
    before = shard.quarantine
    if before is not None:
        known = {one.key for one in before.objects}
        more = tuple(one for one in fact.objects if one.key not in known)
        shard.quarantine = replace(before, objects=before.objects + more)
        return
    was = TRAINED if shard.returning or shard.record is not None else shard.state
    if was == DROPPED and any(
        r.mode in FITTING and r.forgotten is None and r.dropped is not None and shard.shard in r.shards
        for r in state.requests.values()
    ):
        was = TRAINED  # a retrain was under way
    shard.quarantine = Quarantine(time, fact.objects, was, shard.delta, shard.record, fact.reason)
    if shard.state == TRAINED or shard.record is not None:
        state.moves.append(shard.shard)
    shard.state, shard.delta, shard.record, shard.returning = QUARANTINED, None, None, False
    state.pending.pop(shard.shard, None)


def _repair(state: RunState, fact: facts.Repaired) -> None:
    if fact.manifest is not None:
        state.rewrites += 1
        state.manifest, state.manifest_key = fact.manifest, fact.manifest_key
    for number, made in fact.shards.items():
        shard = state.shards[int(number)]
        shard.purges += 1
        shard.samples, shard.lost = made.samples, 0
        shard.checkpoints = tuple(ref for ref in shard.checkpoints if ref.key not in made.checkpoints)
        _release(shard)
    _order_pending(state, [*state.pending, *(int(number) for number in fact.shards)])


def _try_again(state: RunState, fact: facts.TriedAgain) -> None:
    for number in fact.shards:
        shard = state.shards[number]
        if shard.unfitted:
            shard.retries += 1
            _release(shard)
    _order_pending(state, [*state.pending, *fact.shards])


def _release(shard: ShardState) -> None:
    """Out of quarantine, into the state that it would be in."""
    if shard.quarantine is not None:
        shard.state = DROPPED if shard.quarantine.was == DROPPED else PENDING
        shard.returning = shard.quarantine.was == TRAINED
        shard.quarantine = None


def _drop(state: RunState, fact: facts.Dropped) -> None:
    request = state.requests[fact.request]
    request.dropped = fact
    stays = request.mode == SUBTRACT  # no shard leaves; in a run of two tiers their deltas do
    if not stays:
        request.left_at = state.entries
    for number in request.shards:
        shard = state.shards[number]
        if stays and shard.record is None:
            continue
        if shard.state == TRAINED or shard.record is not None:
            shard.state, shard.delta = DROPPED, None
            shard.record = shard.record if stays else None
            state.moves.append(number)
        elif shard.returning:
            shard.state, shard.returning = DROPPED, False
            state.pending.pop(number, None)
        elif shard.quarantine is not None:
            shard.quarantine = _asked_of(shard.quarantine, request.mode)
    if state.monolith is not None:
        if state.monolith.removed_by is None:
            state.monolith.removed_by = fact.request
        state.monolith.delta, state.monolith.lost = None, False


def _rewrite(state: RunState, fact: facts.Rewritten) -> None:
    request = state.requests[fact.request]
    request.rewritten = fact
    if request.left_at is None:
        request.left_at = state.entries
    request.lost_from = tuple(number for number in request.shards if _loses(state, fact, number))
    state.rewrites += 1
    if fact.manifest is not None:
        state.manifest, state.manifest_key = fact.manifest, fact.manifest_key
    for number in request.shards:
        state.shards[number].purges += 1
    for number, ref in fact.deltas.items():
        shard = state.shards[int(number)]
        shard.generation, shard.delta = shard.current, ref
        state.moves.append(shard.shard)
    for number, ref in fact.records.items():
        state.shards[int(number)].record = ref
        state.moves.append(int(number))
    for number, samples in fact.samples.items():
        shard = state.shards[int(number)]
        shard.samples, shard.lost = samples, fact.lost.get(number, 0)
        if not samples and not shard.lost:
            if shard.state == TRAINED or shard.record is not None:
                state.moves.append(shard.shard)
            shard.state, shard.record, shard.quarantine, shard.returning = EMPTY, None, None, False
        elif shard.quarantine is not None and int(number) in fact.whole:
            # its samples that are left were read whole, and its delta goes with the purge
            was, stays = shard.quarantine.was, request.mode == SUBTRACT
            shard.state = PENDING if was == PENDING or (stays and was == TRAINED) else DROPPED
            shard.returning = stays and was == TRAINED
            shard.quarantine = None
    _order_pending(state, [*state.pending, *request.shards])
    for number, refs in fact.checkpoints.items():
        state.shards[int(number)].checkpoints = refs


def _loses(state: RunState, fact: facts.Rewritten, number: int) -> bool:
    """Whether a shard has fewer samples after a rewrite, those counted in whose tokens went with a damaged part."""
    shard, name = state.shards[number], str(number)
    return fact.samples.get(name, 0) + fact.lost.get(name, 0) < shard.samples + shard.lost


def _request(state: RunState, fact: facts.ForgetRequested, time: str) -> None:
    request = RequestState(
        request=fact.request,
        mode=fact.mode,
        hashes=fact.hashes,
        shards=fact.shards,
        time=time,
        composed_before=fact.composed_before,
        started=fact.started,
        owners=fact.owners,
        whole_shards=fact.whole_shards,
        deadline=fact.deadline,
        runs_at=fact.runs_at,
        unplaced=fact.unplaced,
        composed_before_unknown=fact.composed_before_unknown,
        first_requested=fact.first_requested,
    )
    for digest in request.hashes:
        first = state.tombstones.get(digest)
        if first is None or state.requests[first].waiting:  # a sooner one takes over what waits
            state.tombstones[digest] = request.request
    state.requests[request.request] = state.unpurged[request.request] = request
    for digest in request.owners:
        state.owner_tombstones.setdefault(digest, request.request)


def _asked_of(quarantine: Quarantine, mode: str) -> Quarantine:
    """A quarantined shard after a forget that touches it: the state that it would be in without the damage."""
    if mode != "drop":
        return replace(quarantine, was=TRAINED) if quarantine.was == DROPPED else quarantine
    return replace(quarantine, was=DROPPED) if quarantine.was == TRAINED else quarantine


class Replayed:
    """The states of a ledger, one after the other: each entry is folded in once while the numbers asked for do not go back."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        self._entries = entries
        self._state, self._done = RunState(), 0

    def after(self, number: int) -> RunState:
        """The state after ``entries[: number + 1]``, until the next call."""
        end = slice(number + 1).indices(len(self._entries))[1]
        if end < self._done:
            self._state, self._done = RunState(), 0
        while self._done < end:
            apply(self._state, self._entries[self._done])
            self._done += 1
        return self._state


def replay(entries: Iterable[Entry]) -> RunState:
    """The state after all entries."""
    state = RunState()
    for entry in entries:
        apply(state, entry)
    return state
