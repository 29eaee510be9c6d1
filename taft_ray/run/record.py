"""The composer's knowledge of a run: the ledger, the state folded from it, the manifest; and commits that other writers may race.

Every decision is a function of the state, made again whenever another writer took the number it was to be committed under.
So two composers, an old one that wakes up, or a method that Ray runs twice cannot commit on stale ground.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from taft_ray.errors import CommitConflict, CommitUnknown, IntegrityError, ObjectMissing, StorageError, TaftError
from taft_ray.log import context, current_operation, logger_of
from taft_ray.plans.facts import F, Fact, fact_of
from taft_ray.plans.fold import apply
from taft_ray.plans.spec import RunSpec
from taft_ray.plans.state import RunState
from taft_ray.run.quarantine import ShardUnreadable, set_aside
from taft_ray.run.spec import run_spec
from taft_ray.storage import Ledger, Manifest, Store, point_manifest, read_pointer, read_rows

_log = logger_of(__name__)

_TRIES = 24  # lost races in a row before a commit gives up: with 32 writers one of them is still quick
_PAUSE_S = 0.05

T = TypeVar("T")


class Record:
    """The run's facts, for one writer.

    Guarantees: an operation (``op``) is committed once, whoever repeats it; the fact of a commit was decided on exactly
    the entries before it.
    """

    def __init__(self, run: str) -> None:
        self.store = Store(run)
        self.spec: RunSpec = run_spec(self.store)
        self.ledger = Ledger(self.store)
        self.state = RunState()
        self._applied = 0
        self._manifest: Manifest | None = None
        self.refresh()

    def refresh(self) -> None:
        """Read what others committed, and fold it in."""
        self.ledger.refresh()
        self._apply()

    def moved_on(self) -> bool:
        """Read the ledger again: whether others committed something since, which is then folded in."""
        known = self._applied
        self.refresh()
        return self._applied > known

    def current(self, action: Callable[[], T]) -> T:
        """Do something on the state as it is now, and again when another writer removed what it needed meanwhile."""
        self.refresh()
        return self.known(action)

    def known(self, action: Callable[[], T]) -> T:
        """The same on the state as last read. A shard that turns out to be damaged is put into quarantine on the way."""
        tries = 0
        while tries < _TRIES:
            try:
                return action()
            except ShardUnreadable as error:
                tries += not set_aside(self, [error.shard])
            except ObjectMissing:
                tries += 1
                if not self.moved_on():
                    raise
        return action()

    def _apply(self) -> None:
        for entry in self.ledger.since(self._applied):
            apply(self.state, entry)
            self._applied += 1

    def was_exchanged(self) -> bool:
        """Whether the ledger in storage no longer has the last entry read from it: another copy of the folder was put there."""
        known = self.ledger.known
        if not known:
            return False
        there = self.ledger.at(known[-1].number)
        return there is None or there.digest != known[-1].digest

    def commit(self, kind: type[F], op: str, decide: Callable[[], F | None]) -> F | None:
        """Commit what ``decide`` says, once: the fact of the entry of ``op`` when there is one already.

        ``decide`` looks at the state as it is then, and is asked again after a lost race. None (nothing to commit) comes back
        as None. Errors that it raises are raised.
        """
        fault: TaftError | None = None
        attempt = 0
        while attempt < _TRIES:
            self.refresh()
            done = self.ledger.known_op(op)
            if done is not None:
                return fact_of(kind, done.body)
            try:
                fact = decide()
            except ShardUnreadable as error:
                found = set_aside(self, [error.shard])
                attempt, fault = attempt + (not found), error
                continue
            except ObjectMissing as error:
                if not self.moved_on():
                    raise
                attempt, fault = attempt + 1, error
                continue
            if fact is None:
                return None
            try:
                self.ledger.append(kind.KIND, fact.to_json(), op)
            except (CommitConflict, CommitUnknown) as error:
                # another writer has the number, or nobody knows: read, decide again
                time.sleep(random.uniform(0, _PAUSE_S) * min(attempt, 8))
                attempt, fault = attempt + 1, error
                continue
            self._apply()
            self._log_commit(fact, op)
            return fact
        if isinstance(fault, ShardUnreadable):
            raise fault
        raise CommitConflict(
            f"{_TRIES} commits in a row were lost to other writers on {self.store.uri}; run it again"
        ) from fault

    def _log_commit(self, fact: Fact, op: str) -> None:
        shard, generation = getattr(fact, "shard", None), getattr(fact, "generation", None)
        with context(
            run=self.store.uri, shard=shard, generation=generation, operation=None if current_operation() else op
        ):
            _log.info("committed %s (%s)", fact.KIND, op)

    def manifest(self) -> Manifest:
        """The manifest that the ledger commits to; StorageError when there is none yet.

        ObjectMissing when another writer has replaced it since the ledger was read.
        """
        known = self.manifest_in_memory
        if known is None:
            key, digest = self.state.manifest_key, self.state.manifest
            if key is None or digest is None:
                raise StorageError(
                    f"{self.store.uri} has no manifest yet: its activation cache is not finished; run taft-ray train"
                )
            known = self._manifest = read_rows(self.store, key, digest, self._manifest)
        return known

    @property
    def manifest_in_memory(self) -> Manifest | None:
        """The manifest that the ledger, as last read, commits to, where this process has read it."""
        known = self._manifest
        return known if known is not None and known.key == self.state.manifest_key else None

    def publish(self) -> None:
        """Let the manifest's pointer, for readers without a ledger, name what the ledger commits to."""
        while not self.is_published():
            point_manifest(self.store, self.current(self.manifest))
            self.refresh()  # another writer may have gone on, and pointed before us

    def is_published(self) -> bool:
        """Whether the pointer names the manifest that the ledger, as last read, commits to, or there is none yet."""
        try:
            pointer = read_pointer(self.store)
        except IntegrityError:
            return False  # only a copy: written again
        return (pointer and pointer["key"]) == self.state.manifest_key or self.state.manifest_key is None

    def parts(self, shards: Sequence[int]) -> list[dict[str, Any]]:
        """The cache parts of these shards, as the manifest lists them."""
        known = self.manifest().parts_of(shards)
        return [part for shard in shards for part in known.get(str(shard), [])]
