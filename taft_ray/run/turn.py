"""Whose turn it is to carry out the requests of a run: commands at work on one run do not do each other's work.

A turn is manners and not a lock. Commits keep their guarantees without it: two holders at once do some work twice.
"""

from __future__ import annotations

import json
import os
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from uuid import uuid4

from taft_ray.errors import CommitConflict, ObjectMissing, TaftError
from taft_ray.jsonable import JsonObject
from taft_ray.storage import MALFORMED, Store, parse_json
from taft_ray.storage.rundir import TURN_KEY

PAUSE_S, LONGEST_PAUSE_S = 0.05, 1.0  # between two looks whether it is free
BEAT_S = 3.0  # between two signs of life of a holder
SILENT_S = 15.0  # without one, by the clock of whoever waits
FRESH_S = 150.0  # after the last, by clocks that may differ

_held: set[str] = set()  # by this process


@dataclass(frozen=True)
class Turn(JsonObject):
    """One command carries out requests. holder: its own name. told: unix seconds of its last sign of life.

    waits: whether it waits for fits or replicas, which takes long and changes little: who only asks need not wait for it.
    """

    holder: str
    host: str
    pid: int
    told: float
    waits: bool = False

    def __post_init__(self) -> None:
        kinds = (self.holder, str), (self.host, str), (self.pid, int), (self.told, int | float), (self.waits, bool)
        if not all(isinstance(value, kind) for value, kind in kinds):
            raise ValueError("a turn has not the fields it should have")

    def over(self) -> bool:
        """Whether its holder is known to have gone, or has not been heard of for long."""
        if abs(time.time() - self.told) > FRESH_S:
            return True
        if self.host != socket.gethostname():
            return False
        return self.holder not in _held if self.pid == os.getpid() else not _is_alive(self.pid)


class Held:
    """The turn of this command."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.turn = Turn(uuid4().hex, socket.gethostname(), os.getpid(), time.time())
        self._lock = threading.Lock()

    def begin(self) -> None:
        """Take the turn; CommitConflict where somebody has it."""
        self.turn = replace(self.turn, told=time.time())
        self._store.create(TURN_KEY, _bytes(self.turn))

    def waits(self) -> None:
        """Say, once, that from here on it waits for fits, or for replicas."""
        if not self.turn.waits:
            with self._lock:
                self.turn = replace(self.turn, waits=True)
            self._tell()

    @contextmanager
    def giving_signs(self) -> Iterator[None]:
        """Signs of life while the block lasts; then the turn is somebody else's."""
        ended = threading.Event()
        beating = threading.Thread(target=self._beat, args=(ended,), daemon=True)
        beating.start()
        try:
            yield
        finally:
            ended.set()
            beating.join()
            with suppress(TaftError):
                if self._is_mine():
                    self._store.delete(TURN_KEY)

    def _beat(self, ended: threading.Event) -> None:
        while not ended.wait(BEAT_S):
            self._tell()

    def _tell(self) -> None:
        with self._lock, suppress(TaftError):
            self.turn = replace(self.turn, told=time.time())
            if self._is_mine():
                self._store.write(TURN_KEY, _bytes(self.turn))

    def _is_mine(self) -> bool:
        """False where somebody took it over: this process was silent for too long."""
        there = _read(self._store)
        return there is None or there.holder == self.turn.holder


class Turns:
    """The turns of one run, as one process sees them. Damage of the object holds nobody up."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._last: Turn | None = None
        self._since = 0.0  # when it was first seen, by this process's monotonic clock

    def taken_elsewhere(self) -> bool:
        """Whether another process, which gives signs of life, carries out requests."""
        try:
            there = _read(self._store)
        except ObjectMissing:
            return False
        return there is not None and there.holder not in _held and self._stands(there)

    def left_over(self) -> bool:
        """Whether there is a turn whose holder has gone, or one that cannot be read."""
        try:
            there = _read(self._store)
        except ObjectMissing:
            return False
        return there is None or not self._stands(there)

    @contextmanager
    def turn(self, unless: Callable[[Turn], bool] = lambda turn: False) -> Iterator[Held | None]:
        """Wait for the turn, and hold it while the block lasts. A storage that takes no note holds nobody up.

        unless: asked of the turn that stands, now and then: whether there is no need to wait. Then the block has None.
        """
        held = Held(self._store)
        _held.add(held.turn.holder)
        try:
            pause = 0.0
            while not self._take(held):
                if self._last is not None and unless(self._last):
                    yield None
                    return
                pause = min(pause + PAUSE_S, LONGEST_PAUSE_S)
                time.sleep(pause * random.uniform(0.5, 1.5))
            with held.giving_signs():
                yield held
        finally:
            _held.discard(held.turn.holder)

    def _take(self, held: Held) -> bool:
        try:
            with suppress(CommitConflict):
                held.begin()
                return True
            if not self.left_over():
                return False
            self._store.delete(TURN_KEY)
            held.begin()
        except CommitConflict:
            return False
        except TaftError:
            return True
        return True

    def _stands(self, there: Turn) -> bool:
        if there.over():
            return False
        if there != self._last:
            self._last, self._since = there, time.monotonic()
        return time.monotonic() - self._since < SILENT_S


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)  # asks, and does nothing
    except ProcessLookupError:
        return False
    except OSError:
        pass  # it is somebody else's
    return True


def _read(store: Store) -> Turn | None:
    """None: it cannot be read. ObjectMissing: nobody has it."""
    try:
        return Turn.from_json(parse_json(store.read(TURN_KEY)))
    except MALFORMED:
        return None


def _bytes(turn: Turn) -> bytes:
    return json.dumps(turn.to_json()).encode()
