"""The ledger: an append-only, hash-chained list of facts; one commit is one create-if-absent of the next number."""

import re
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from taft_ray.errors import CommitConflict, CommitUnknown, IntegrityError, ObjectMissing, StorageError, UsageError
from taft_ray.storage.digest import canonical_json, digest_json, seal, unseal
from taft_ray.storage.json_text import parse_json
from taft_ray.storage.objects import Store

FOLDER = "ledger"
GENESIS = "0" * 64
"""`prev` of entry 0."""

_NAME = re.compile(rf"{FOLDER}/(\d{{20}})\.json")
_READERS = 16  # parallel reads where each costs a round trip
_PROBES = 16  # entries looked for one by one before a listing is cheaper
_ATTEMPTS = 3


def entry_key(number: int) -> str:
    """The key of an entry: ``ledger/00000000000000000042.json``."""
    return f"{FOLDER}/{number:020d}.json"


@dataclass(frozen=True)
class Entry:
    """A committed fact. `prev` and `digest` are digests: of the entry before, and of all other fields of this one."""

    number: int
    prev: str
    kind: str
    op: str
    time: str
    body: dict[str, Any]
    digest: str


class Ledger:
    """The ledger of the run in `store`.

    Guarantees: numbers are 0, 1, 2, ... without a gap. Exactly one of the writers racing for one number wins. A changed,
    truncated, missing or exchanged entry raises `IntegrityError` naming the object. (That the newest entries were
    removed cannot be seen from the chain; `entries` of a reader that had seen them does see it.) Safe for threads.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self._known: list[Entry] = []
        self._by_op: dict[str, Entry] = {}
        self._was_read = False
        self._lock = threading.RLock()

    @property
    def known(self) -> list[Entry]:
        """The entries read so far, without asking the storage."""
        with self._lock:
            return list(self._known)

    def since(self, number: int) -> list[Entry]:
        """The entries read so far from this number on, without asking the storage."""
        with self._lock:
            return self._known[number:]

    def known_op(self, op: str) -> Entry | None:
        """The first entry of operation `op` among those read so far, without asking the storage."""
        with self._lock:
            return self._by_op.get(op)

    def entries(self) -> list[Entry]:
        """The whole chain from 0, read again from storage and verified."""
        with self._lock:
            numbers = self._numbers()
            chain: list[Entry] = []
            self._extend(chain, numbers)
            seen = self._known
            if len(chain) < len(seen) or any(new.digest != old.digest for new, old in zip(chain, seen, strict=False)):
                where = next((e for e, new in zip(seen, chain, strict=False) if new.digest != e.digest), None)
                number = where.number if where else len(chain)
                raise IntegrityError(
                    f"{self._where(number)} was exchanged or removed since it was read; restore the ledger"
                )
            self._known = chain
            self._was_read = True
            self._by_op = {}
            for entry in chain:
                self._by_op.setdefault(entry.op, entry)
            return list(chain)

    def refresh(self) -> list[Entry]:
        """The entries committed since the last read, verified against what is known."""
        with self._lock:
            start = len(self._known)
            for _ in range(_PROBES if start else 0):
                number = len(self._known)
                try:
                    data = self.store.read(entry_key(number))
                except ObjectMissing:
                    return self._known[start:]
                self._accept(self._parse(number, data))
            fresh: list[Entry] = list(self._known)
            self._extend(fresh, [n for n in self._numbers() if n >= len(fresh)])
            for entry in fresh[len(self._known) :]:
                self._accept(entry)
            self._was_read = True
            return self._known[start:]

    def at(self, number: int) -> Entry | None:
        """The entry of this number as storage has it now, alone: its place in the chain is not checked. None: there is none."""
        try:
            return self._parse(number, self.store.read(entry_key(number)))
        except ObjectMissing:
            return None

    def head(self) -> Entry | None:
        """The newest entry in storage, or None in an empty ledger."""
        with self._lock:
            self.refresh()
            return self._known[-1] if self._known else None

    def find(self, op: str) -> Entry | None:
        """The first entry of operation `op`, or None: asked before an operation is repeated."""
        with self._lock:
            self.refresh()
            return self._by_op.get(op)

    def append(self, kind: str, body: dict[str, Any], op: str) -> Entry:
        """Commit a fact under the number after those known (after the head, when nothing was read yet).

        `body` must be JSON. Raises `CommitConflict` when another writer took the number: `refresh`, decide again,
        retry. Raises `CommitUnknown` only when storage is lost right after the attempt: once it is back, `find(op)`
        tells.
        """
        with self._lock:
            if not self._was_read:
                self.refresh()
            entry = self._next(kind, body, op)
            data = _sealed(entry)
            self._commit(entry, data)
            self._accept(entry)
            return entry

    def _next(self, kind: str, body: dict[str, Any], op: str) -> Entry:
        try:
            plain = parse_json(canonical_json(body))
        except (TypeError, ValueError) as error:
            raise UsageError(f"a ledger entry's body must be JSON without NaN: {error}; convert it") from error
        prev = self._known[-1].digest if self._known else GENESIS
        time = datetime.now(UTC).isoformat(timespec="microseconds")
        fields: dict[str, Any] = {"number": len(self._known), "prev": prev, "kind": kind, "op": op}
        fields |= {"time": time, "body": plain}
        return Entry(**fields, digest=digest_json(fields))

    def _commit(self, entry: Entry, data: bytes) -> None:
        key = entry_key(entry.number)
        fault: StorageError | None = None
        for _ in range(_ATTEMPTS):
            try:
                self.store.create(key, data)
                return
            except CommitConflict:
                # ours after all, if the HTTP client repeated a put that had reached S3 before its connection broke
                if self._is_ours(entry):
                    return
                raise
            except CommitUnknown as error:
                fault = error
            try:
                if self._is_ours(entry):
                    return
                raise CommitConflict(
                    f"{self._where(entry.number)} was taken by another writer; refresh and retry"
                ) from fault
            except ObjectMissing:
                continue  # it did not happen, or has not yet: a repeated create cannot commit it twice
            except CommitConflict:
                raise
            except StorageError as error:
                raise CommitUnknown(f"{fault}; reading it back failed too: {error}") from error
        raise CommitUnknown(f"{fault}; read the head before retrying") from fault

    def _is_ours(self, entry: Entry) -> bool:
        there = self._parse(entry.number, self.store.read(entry_key(entry.number)))
        return there.op == entry.op and there.digest == entry.digest

    def _where(self, number: int) -> str:
        return f"{entry_key(number)} in {self.store.uri}"

    def _numbers(self) -> list[int]:
        names = (_NAME.fullmatch(info.key) for info in self.store.list(f"{FOLDER}/"))
        return sorted(int(name[1]) for name in names if name)

    def _extend(self, chain: list[Entry], numbers: Sequence[int]) -> None:
        """Read `numbers` (sorted) and link them to `chain`."""
        for expected, number in enumerate(numbers, start=len(chain)):
            if number != expected:
                raise IntegrityError(
                    f"{self._where(expected)} is missing, yet later entries exist; restore it from a copy"
                )
        if self.store.local or len(numbers) < 2:
            parts = map(self._read, numbers)
            for entry in parts:
                self._link(chain[-1] if chain else None, entry)
                chain.append(entry)
            return
        with ThreadPoolExecutor(min(_READERS, len(numbers))) as readers:
            for entry in readers.map(self._read, numbers):
                self._link(chain[-1] if chain else None, entry)
                chain.append(entry)

    def _read(self, number: int) -> Entry:
        try:
            return self._parse(number, self.store.read(entry_key(number)))
        except ObjectMissing as error:
            raise IntegrityError(f"{self._where(number)} was listed but is missing; restore it from a copy") from error

    def _parse(self, number: int, data: bytes) -> Entry:
        where = self._where(number)
        fields = unseal(data, "digest", where)
        try:
            entry = Entry(**fields)
        except TypeError as error:
            raise IntegrityError(f"{where} is not a ledger entry: it has the fields {sorted(fields)}") from error
        if entry.number != number:
            raise IntegrityError(f"{where} holds entry {entry.number}; restore it from a copy")
        return entry

    def _link(self, before: Entry | None, entry: Entry) -> None:
        if entry.prev != (before.digest if before else GENESIS):
            raise IntegrityError(
                f"{self._where(entry.number)} does not follow the entry before it: the chain is broken"
            )

    def _accept(self, entry: Entry) -> None:
        self._link(self._known[-1] if self._known else None, entry)
        self._known.append(entry)
        self._by_op.setdefault(entry.op, entry)


def _sealed(entry: Entry) -> bytes:
    fields = asdict(entry)
    del fields["digest"]
    return seal(fields, "digest")
