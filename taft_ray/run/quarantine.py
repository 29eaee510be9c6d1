"""Quarantine: a shard one of whose objects is damaged or gone leaves the model at once, by a commit.

Guarantees: only what was read twice and is wrong both times is called damaged. A storage that does not answer, or refuses
access, is never taken for damage. An object that another writer replaced or purged meanwhile is no damage either.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

from taft_ray.counting import are, which
from taft_ray.errors import IntegrityError, ObjectMissing
from taft_ray.plans.facts import Damage, ObjectRef, Quarantined
from taft_ray.plans.state import EMPTY, MONOLITH, PENDING, RunState
from taft_ray.storage import Store, digest_bytes

if TYPE_CHECKING:
    from taft_ray.run.record import Record

MISSING = "missing"


class Ref(Protocol):
    """An object of storage, and what it must be."""

    @property
    def key(self) -> str: ...
    @property
    def digest(self) -> str: ...


class ShardUnreadable(IntegrityError):
    """An object of a shard could not be read as it was recorded; whether it is damaged is still to be confirmed."""

    def __init__(self, message: str, shard: int = -1) -> None:
        super().__init__(message)
        self.shard = shard


def damaged_objects(store: Store, refs: Iterable[Ref]) -> list[Damage]:
    """Which of these objects are damaged or gone. StorageError when storage fails."""
    found = []
    for ref in refs:
        problem = _problem(store, ref)
        if problem is not None and _problem(store, ref) is not None:
            found.append(Damage(ref.key, problem))
    return found


def _problem(store: Store, ref: Ref) -> str | None:
    try:
        data = store.read(ref.key)
    except ObjectMissing:
        return MISSING
    digest = digest_bytes(data)
    return None if digest == ref.digest else f"damaged: {len(data)} bytes with digest {digest[:16]}"


def set_aside(record: Record, shards: Iterable[int], *, checkpoints: bool = False) -> list[int]:
    """Read every object of these shards and put those with a damaged one into quarantine; which were, now or more of them.

    checkpoints: a damaged slice checkpoint counts too. It costs a fit time only, so that a repair alone asks for it.
    """
    return [shard for shard in shards if _set_one_aside(record, shard, checkpoints)]


def _set_one_aside(record: Record, number: int, checkpoints: bool) -> bool:
    shard = record.state.shards.get(number)
    if shard is None or shard.state == EMPTY:
        return False
    damaged = damaged_objects(record.store, _objects_of(record, number, checkpoints))
    known = {one.key for one in shard.quarantine.objects} if shard.quarantine is not None else set()
    fresh = tuple(one for one in damaged if one.key not in known)
    if not fresh or record.was_exchanged():  # another copy of the folder, or nothing at all, lies there: no damage
        return False

    def decide() -> Quarantined | None:
        now = record.state.shards[number]
        named = {ref.key for ref in _objects_of(record, number, checkpoints)}
        still = tuple(one for one in fresh if one.key in named)  # another writer may have replaced it
        if not still or now.state == EMPTY:
            return None
        return Quarantined(number, still, now.current)

    # an object is put aside once a generation: its key tells which
    op = f"quarantined/{number}/{shard.current}/{fresh[0].key}"
    return record.commit(Quarantined, op, decide) is not None


def set_unfitted_aside(record: Record, number: int, reason: str) -> bool:
    """Put a shard without a delta into quarantine that nobody can fit; whether it is there now."""

    def decide() -> Quarantined | None:
        shard = record.state.shards[number]
        return Quarantined(number, (), shard.current, reason) if shard.state == PENDING else None

    shard = record.state.shards[number]
    op = f"quarantined/{number}/{shard.current}/unfitted/{shard.retries}"
    return record.commit(Quarantined, op, decide) is not None


def set_monolith_aside(record: Record) -> bool:
    """The comparison model goes when its delta is damaged or gone: whether it did."""
    ref = record.state.monolith_delta
    damaged = damaged_objects(record.store, [ref]) if ref else []
    if not damaged or record.was_exchanged():
        return False

    def decide() -> Quarantined | None:
        return Quarantined(MONOLITH, tuple(damaged)) if record.state.monolith_delta == ref else None

    done = record.commit(Quarantined, f"quarantined/{MONOLITH}/{record.state.monolith_losses}", decide) is not None
    if done:
        record.store.erase([damaged[0].key])  # its key is that of the one which is trained in its place
    return done


def _objects_of(record: Record, number: int, checkpoints: bool) -> list[Ref]:
    """The objects that the ledger and the manifest name of a shard: its delta, its record, the parts with its tokens, perhaps its checkpoints."""
    shard = record.state.shards[number]
    refs: list[Ref] = [ref for ref in (shard.delta, shard.record) if ref is not None]
    if record.state.cached is not None:
        with suppress(IntegrityError, ObjectMissing):  # a damaged manifest is no shard's fault
            refs += map(ObjectRef.from_json, record.parts([number]))
    return [*refs, *(shard.checkpoints if checkpoints else ())]


def quarantines(state: RunState) -> list[dict[str, Any]]:
    """The shards in quarantine, as commands tell them."""
    return [
        {
            "shard": shard.shard,
            "since": shard.quarantine.since,
            "objects": [one.to_json() for one in shard.quarantine.objects],
            **({} if shard.quarantine.reason is None else {"reason": shard.quarantine.reason}),
            "samples_without_tokens": shard.lost,
        }
        for shard in state.quarantined
        if shard.quarantine is not None
    ]


def way_out(run: str, shards: Sequence[int]) -> str:
    """The commands that bring shards out of quarantine which damage put there."""
    them = "it" if len(shards) == 1 else "them"
    return (
        f"{which('shard', shards)} {are(len(shards))} in quarantine, out of the model: taft-ray repair {run} makes {them} "
        f"again, taft-ray forget {run} --shard N --mode drop gives one up"
    )


def way_out_of_unfitted(run: str, shards: Sequence[int]) -> str:
    """The commands for shards that nobody could fit."""
    them = "it" if len(shards) == 1 else "them"
    return (
        f"{which('shard', shards)} could not be fitted and {are(len(shards))} in quarantine: taft-ray train {run} tries {them} "
        f"again, taft-ray forget {run} --shard N --mode drop gives one up"
    )
