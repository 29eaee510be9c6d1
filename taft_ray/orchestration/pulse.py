"""Signs of life of worker processes, in the cluster's key-value store; a command that waits reads them.

A thread of the worker counts, whatever its other threads do. A process that was stopped counts no further. Its machine is asked
then, and ends it where it is stopped; Ray starts the next one, and what was in hand is done there. Nothing stale is committed:
whoever is ended does not go on.

Workers of one piece of work are a group, whose name begins their keys. Whoever waits looks after warm workers, too, of whatever
run: a stopped one holds its place for ever.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from typing import Any
from uuid import uuid4

import ray
from ray.exceptions import RayError
from ray.experimental.internal_kv import internal_kv_get_gcs_client  # there is no public way

from taft_ray.log import logger_of
from taft_ray.orchestration.nodes import ENDED, GONE, Process, born, look_at
from taft_ray.orchestration.session import NAMESPACE
from taft_ray.orchestration.signs import LOOK_S, Signs
from taft_ray.orchestration.waiting import told_while

WARM = "worker"  # begins the groups of warm workers
_BEAT_S = 3.0
_ANSWER_S = 5.0  # of the store; a sign that is lost is followed by the next
_SPACE = NAMESPACE.encode()

_log = logger_of(__name__)


class _Pulse:
    """The signs of this process."""

    def __init__(self) -> None:
        self.groups: Counter[str] = Counter()
        self.known: set[str] = set()  # groups that have heard of it
        self.over: set[str] = set()  # groups whose key is to be removed
        self.count = 0
        self.lock = threading.Lock()
        self.thread: threading.Thread | None = None

    def begin(self, group: str) -> None:
        with self.lock:
            self.groups[group] += 1
            self.over.discard(group)
            self._put(group)
            if self.thread is None:
                self.thread = threading.Thread(target=self._beat, name="pulse", daemon=True)
                self.thread.start()

    def end(self, group: str) -> None:
        with self.lock:
            self.groups[group] -= 1
            if self.groups[group] <= 0:
                self._leave(group)

    def _beat(self) -> None:
        while True:
            time.sleep(_BEAT_S)
            with self.lock:
                self.count += 1
                for group in [*self.groups]:
                    if not self._put(group):
                        self._leave(group)
                for group in [*self.over]:
                    self._leave(group)

    def _put(self, group: str) -> bool:
        """Give a sign; False where the last one was removed, as is done when nobody listens to the group any more."""
        with suppress(Exception):  # the store does not answer
            value = json.dumps({**vars(_here()), "count": self.count}).encode()
            is_new = _store().internal_kv_put(_key(group), value, True, _SPACE, timeout=_ANSWER_S)
            was_removed = bool(is_new) and group in self.known
            self.known.add(group)
            return not was_removed
        return True

    def _leave(self, group: str) -> None:
        self.groups.pop(group, None)
        self.known.discard(group)
        self.over.add(group)
        with suppress(Exception):  # the next beat tries again: a key without signs would be taken for a stopped process
            _store().internal_kv_del(_key(group), False, _SPACE, timeout=_ANSWER_S)
            self.over.discard(group)


_pulse = _Pulse()


def new_group(kind: str) -> str:
    """The name of a group that no other command has."""
    return f"{kind}/{uuid4().hex}"


@contextmanager
def beating(group: str) -> Iterator[None]:
    """As long as the block lasts, this process gives signs of life."""
    _pulse.begin(group)
    try:
        yield
    finally:
        _pulse.end(group)


def beat(group: str) -> None:
    """Give signs of life from now on, until this process ends."""
    _pulse.begin(group)


def with_pulse(cls: Any, group: str) -> Any:
    """The class of an actor, which gives signs of life from before it is made until its process ends."""

    class Beating(cls):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            beat(group)
            super().__init__(*args, **kwargs)

    Beating.__name__ = Beating.__qualname__ = cls.__name__
    return Beating


class _Listening:
    """A command's ear for the signs of a group."""

    def __init__(self, group: str, by: str) -> None:
        self.group, self.by = group, by
        self.signs = Signs()
        self.silent: dict[str, float] = {}
        self._told: set[str] = set()

    def waits(self) -> bool:
        """Whether a worker of the group is silent."""
        return any(key.startswith(self.group) for key in [*self.silent])

    def look(self, ended: threading.Event) -> None:
        """Hear the group and warm workers, and have the machines of silent workers look at them."""
        try:
            said = _said(self.group) | _said(WARM)
        except Exception:  # the store does not answer: so nobody was heard, nor is anybody silent
            return
        self.silent = self.signs.hear({key: one["count"] for key, one in said.items()})
        asked: dict[str, tuple[Process, bool]] = {}
        for key, seconds in self.silent.items():
            process = Process(said[key]["node"], said[key]["pid"], said[key]["born"])
            asked[key] = process, seconds > self.signs.patience
        found = look_at(asked, ended)
        for key, (process, overdue) in asked.items():
            if found.get(key) == ENDED:
                why = "answers nothing" if overdue else "was stopped"
                _log.warning("%s: the worker of process %d %s and is ended", self.by, process.pid, why)
            elif found.get(key) != GONE and key not in self._told:
                self._told.add(key)
                _log.warning("%s: process %d says nothing for %d s", self.by, process.pid, self.silent[key])
            if found.get(key) in (ENDED, GONE):
                self.silent.pop(key)
                with suppress(Exception):
                    _store().internal_kv_del(key.encode(), False, _SPACE, timeout=_ANSWER_S)
        self._told &= set(self.silent)


@contextmanager
def looked_after(by: str, group: str, *, run: str | None = None, closes: bool = False) -> Iterator[None]:
    """As long as the block lasts, workers of this group that were stopped are ended, and it is told that silent ones are waited for.

    by: who waits. run: where a note says so. closes: the group ends with the block.
    """
    listening, ended = _Listening(group, by), threading.Event()

    def look() -> None:
        while not ended.wait(LOOK_S):
            try:
                listening.look(ended)
            except RayError as error:  # a machine goes while it is asked, say
                _log.info("%s: silent workers could not be looked at: %s", by, error)

    looking = threading.Thread(target=look, name="looking", daemon=True)
    looking.start()
    try:
        what = "a worker that says nothing"
        with nullcontext() if run is None else told_while(run, by, what, listening.waits):
            yield
    finally:
        ended.set()
        looking.join()
        if closes:
            with suppress(Exception):
                _store().internal_kv_del(f"{group}/".encode(), True, _SPACE, timeout=_ANSWER_S)


def wait_for(answer: Any, by: str, group: str, run: str) -> None:
    """Wait until a worker of this group has answered, or is lost."""
    if not ray.wait([answer], timeout=LOOK_S, fetch_local=False)[0]:  # most calls are short
        with looked_after(by, group, run=run):
            ray.wait([answer], fetch_local=False)


def _said(group: str) -> dict[str, dict[str, Any]]:
    keys = _store().internal_kv_keys(f"{group}/".encode(), _SPACE, timeout=_ANSWER_S)
    found = _store().internal_kv_multi_get(keys, _SPACE, timeout=_ANSWER_S) if keys else {}
    return {key.decode(): json.loads(value) for key, value in found.items()}


def _here() -> Process:
    return Process(ray.get_runtime_context().get_node_id(), os.getpid(), born(os.getpid()))


def _key(group: str) -> bytes:
    return f"{group}/{ray.get_runtime_context().get_worker_id()}".encode()


def _store() -> Any:
    return internal_kv_get_gcs_client()
