"""The head of a run's ledger, as a replica reads it again and again; and which model the run is there."""

from __future__ import annotations

from dataclasses import dataclass

from taft_ray.additive.options import ADDITIVE
from taft_ray.counting import are, which
from taft_ray.errors import IntegrityError, UsageError
from taft_ray.plans.facts import Tuned
from taft_ray.plans.spec import RunSpec
from taft_ray.plans.state import RunState
from taft_ray.run.record import Record
from taft_ray.serving.options import Source
from taft_ray.storage import Tombstones

_CHEAP = 64 << 20  # bytes of deltas that are read in a moment
Member = tuple[int, str, int]  # a shard, the digest of its delta or record, its weight


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """The model that a run is at some head. members: the shards in it. of: their digest. classes: in the order of the logits.

    digest: of the composed model, where the ledger has it. tuned: settings of an additive one.

    cheap: whether a replica composes it about as soon as somebody else.
    """

    members: frozenset[Member]
    of: str
    classes: tuple[str, ...]
    digest: str | None = None
    tuned: Tuned | None = None
    cheap: bool = False

    def allows(self, held: Wanted) -> bool:
        """Whether a model from before may still be answered with: nothing that is in it has left the run since."""
        return held.members <= self.members

    def is_of(self, held: Wanted) -> bool:
        """Whether a model is this one."""
        return held.of == self.of and held.tuned == self.tuned


def mode_of(spec: RunSpec, source: Source) -> str:
    """The composition of a source; UsageError for one that its run has not."""
    mode = ADDITIVE if source.owners else source.compose or spec.compose
    if source.owners:
        spec.check_additive("the model of some owners alone")
    if mode not in spec.modes:
        raise UsageError(
            f"compose={mode!r}: {source.run} has no such composition; choose one of {', '.join(spec.modes)}"
        )
    return mode


def wanted_of(spec: RunSpec, state: RunState, source: Source) -> Wanted | None:
    """The model of a source at the head that ``state`` is of; None where no shard is in it."""
    mode = mode_of(spec, source)
    by_records = spec.by_records(mode)
    shards = [shard for shard in state.in_tier(by_records) if shard.weight]
    refs = [(shard.shard, shard.member(by_records), shard.weight) for shard in shards]
    members = frozenset((number, str(ref.digest), weight) for number, ref, weight in refs if ref is not None)
    if not members:
        return None
    return Wanted(
        members=members,
        of=state.members_of(by_records),
        classes=tuple(state.classes),
        digest=None if source.owners else state.composed_as(mode, by_records),
        tuned=state.tuned if mode == ADDITIVE else None,
        cheap=mode != ADDITIVE and sum(ref.bytes for _, ref, _ in refs if ref is not None) <= _CHEAP,
    )


class Following:
    """The ledger of one run, followed entry by entry.

    Guarantees: ``read`` returns only when the head in storage continues what was read before. A folder that was exchanged for
    an older copy, or removed, is an error. So is one that has not forgotten all that is asked beside it.
    """

    def __init__(self, run: str) -> None:
        self.run = run
        self._record: Record | None = None
        self._number = -1

    @property
    def is_read(self) -> bool:
        return self._record is not None

    @property
    def record(self) -> Record:
        assert self._record is not None, "read first"
        return self._record

    @property
    def state(self) -> RunState:
        return self.record.state

    @property
    def head(self) -> str:
        """The digest of the newest entry, which stands for all before it."""
        return self.record.ledger.known[-1].digest

    def read(self) -> int:
        """Read the entries that were committed since, and fold them in: the number of the head.

        Two small reads where nothing is new. TaftError where storage does not answer, or does not have what it had.
        """
        if self._record is None or self._record.was_exchanged():
            self._record = self._opened()
        self._record.refresh()
        self._number = len(self._record.ledger.known) - 1
        return self._number

    def _opened(self) -> Record:
        record = Record(self.run)
        number = len(record.ledger.known) - 1
        if number < max(self._number, 0):
            raise IntegrityError(
                f"the ledger of {self.run} ends at entry {number}, and entry {self._number} was read before. An older copy of "
                "the folder was put back; run taft-ray forget --due"
            )
        if missing := Tombstones(record.store, record.state.identity).missing(record.state.requests):
            raise IntegrityError(
                f"{which('forget request', missing)} {are(len(missing))} kept beside {self.run} and not in its ledger; "
                "run taft-ray forget --due"
            )
        return record
