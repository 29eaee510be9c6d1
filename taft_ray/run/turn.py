"""Whose turn it is to carry out the requests of a run, so that commands at work on one run do not do each other's work.

A turn is manners and not a lock. Commits keep their guarantees without it: two holders at once do some work twice.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from uuid import uuid4

from taft_ray.errors import CommitConflict, ObjectMissing, TaftError
from taft_ray.jsonable import JsonObject
from taft_ray.storage import MALFORMED, Store, parse_json
from taft_ray.storage.rundir import TURN_KEY

BEAT_S = 3.0  # between two signs of life of a holder
SILENT_S = 15.0  # without one, by the clock of whoever waits
FRESH_S = 150.0  # after the last, by clocks that may differ

_held: set[str] = set()  # by this process


@dataclass(frozen=True)
class Turn(JsonObject):
    """One command carries out requests. holder: its own name. told: unix seconds of its last sign of life."""

    holder: str
    host: str
    pid: int
    told: float

    def __post_init__(self) -> None:
        kinds = (self.holder, str), (self.host, str), (self.pid, int), (self.told, int | float)
        if not all(isinstance(value, kind) for value, kind in kinds):
            raise ValueError("a turn has not the fields it should have")

    def over(self) -> bool:
        """Whether its holder is known to have gone, or has not been heard of for long."""
        if abs(time.time() - self.told) > FRESH_S:
            return True
        if self.host != socket.gethostname():
            return False
        return self.holder not in _held if self.pid == os.getpid() else not _is_alive(self.pid)


class Turns:
    """The turns of one run, as one process sees them. Damage of the object holds nobody up."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._last: Turn | None = None
        self._since = 0.0  # when it was first seen, by this process's monotonic clock

    def taken(self) -> bool:
        """Whether somebody who gives signs of life carries out requests, this process included."""
        try:
            there = self._read()
        except ObjectMissing:
            return False
        return there is not None and self._stands(there)

    def left_over(self) -> bool:
        """Whether there is a turn whose holder has gone, or one that cannot be read."""
        try:
            there = self._read()
        except ObjectMissing:
            return False
        return there is None or not self._stands(there)

    @contextmanager
    def turn(self) -> Iterator[bool]:
        """Hold the turn while the block lasts: whether that is so. A storage that takes no note holds nobody up."""
        mine = Turn(uuid4().hex, socket.gethostname(), os.getpid(), time.time())
        _held.add(mine.holder)
        if not self._take(mine):
            _held.discard(mine.holder)
            yield False
            return
        ended = threading.Event()
        beating = threading.Thread(target=self._beat, args=(mine, ended), daemon=True)
        beating.start()
        try:
            yield True
        finally:
            ended.set()
            beating.join()
            _held.discard(mine.holder)
            with suppress(TaftError):
                if (there := self._read()) is not None and there.holder == mine.holder:
                    self._store.delete(TURN_KEY)

    def _take(self, mine: Turn) -> bool:
        try:
            with suppress(CommitConflict):
                self._store.create(TURN_KEY, _bytes(mine))
                return True
            if not self.left_over():
                return False
            self._store.delete(TURN_KEY)
            self._store.create(TURN_KEY, _bytes(mine))
        except CommitConflict:
            return False
        except TaftError:
            return True
        return True

    def _beat(self, mine: Turn, ended: threading.Event) -> None:
        while not ended.wait(BEAT_S):
            with suppress(TaftError):
                there = self._read()
                if there is not None and there.holder != mine.holder:
                    return  # somebody took it over: this process was silent for too long
                self._store.write(TURN_KEY, _bytes(replace(mine, told=time.time())))

    def _stands(self, there: Turn) -> bool:
        if there.over():
            return False
        if there != self._last:
            self._last, self._since = there, time.monotonic()
        return time.monotonic() - self._since < SILENT_S

    def _read(self) -> Turn | None:
        """None: it cannot be read. ObjectMissing: nobody has it."""
        try:
            return Turn.from_json(parse_json(self._store.read(TURN_KEY)))
        except MALFORMED:
            return None


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)  # asks, and does nothing
    except ProcessLookupError:
        return False
    except OSError:
        pass  # it is somebody else's
    return True


def _bytes(turn: Turn) -> bytes:
    return json.dumps(turn.to_json()).encode()
