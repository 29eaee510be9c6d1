"""Runs below a place as they are in storage now: read once, and then only what was added to their ledgers.

Guarantees: nothing is written. A run that cannot be read has a problem, and the others are read all the same.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from taft_ray.errors import TaftError
from taft_ray.run.record import Record
from taft_ray.run.spec import run_spec
from taft_ray.storage import MALFORMED, Store, digest_bytes
from taft_ray.verbs.list import place_of, problem_told, runs_in, summary_of

_LISTED_S = 5.0  # between two listings of the place
T = TypeVar("T")

UNREADABLE = (TaftError, OSError, *MALFORMED)
"""What reading a run raises that is damaged, unreachable, or another version's."""


def name_of(uri: str) -> str:
    """The name of a run in addresses of the page: 16 hexadecimal characters, whatever its folder is called."""
    return digest_bytes(uri.encode("utf-8", "surrogatepass"))[:16]


def told(error: BaseException) -> str:
    """An error as a sentence for a person."""
    return str(error) if isinstance(error, TaftError) else f"{type(error).__name__}: {error}"


@dataclass
class Reading:
    """One run. Its record is used under its lock, for the ledger is read on between two answers."""

    store: Store
    lock: threading.RLock = field(default_factory=threading.RLock)
    _record: Record | None = None
    _kept: dict[str, tuple[Any, Any]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return name_of(self.store.uri)

    def record(self) -> Record:
        """The run as its ledger is now; one of `UNREADABLE` where nothing can be said of it."""
        with self.lock:
            if self._record is None or self._record.was_exchanged():
                self._record, self._kept = None, {}
                self._record = Record(self.store.uri)
            else:
                self._record.refresh()
            return self._record

    def kept(self, part: str, of: Any, make: Callable[[], T]) -> T:
        """A part of an answer, made again when what it is of has changed."""
        with self.lock:
            known = self._kept.get(part)
            if known is None or known[0] != of:
                known = self._kept[part] = (of, make())
            return known[1]

    def summary(self) -> dict[str, Any]:
        """The run as `list` tells it, with its name."""
        with self.lock:
            try:
                record = self.record()
                return {**summary_of(self.store.uri, record.spec, record.state), "name": self.name}
            except UNREADABLE as error:
                return {**problem_told(self.store.uri, self._spec(), told(error)), "name": self.name}

    def _spec(self) -> Any:
        try:
            return run_spec(self.store)
        except UNREADABLE:
            return None

    def head(self) -> str:
        """A text that changes when the run does."""
        with self.lock:
            try:
                record = self.record()
                return f"{record.state.entries}:{record.ledger.known[-1].digest if record.ledger.known else ''}"
            except UNREADABLE as error:
                return told(error)


class Readings:
    """Every run below a place, by name. StorageError where a local place is no folder."""

    def __init__(self, uri: str) -> None:
        self.place = place_of(uri)
        self._lock = threading.Lock()
        self._runs: dict[str, Reading] = {}
        self._listed = float("-inf")

    def all(self) -> list[Reading]:
        """The runs, in the order of `list`; the place is listed again now and then."""
        with self._lock:
            if time.monotonic() - self._listed > _LISTED_S:
                there = {name_of(store.uri): store for store in runs_in(self.place)}
                self._runs = {name: self._runs.get(name) or Reading(store) for name, store in there.items()}
                self._listed = time.monotonic()
            return list(self._runs.values())

    def find(self, name: str) -> Reading | None:
        """The run of this name; None where there is none."""
        return next((one for one in self.all() if one.name == name), None)
