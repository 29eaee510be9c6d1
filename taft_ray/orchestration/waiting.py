"""Saying what a command waits for, and since when: in its log, and in a note in the run's storage that `status` shows."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import copy_context
from uuid import uuid4

from taft_ray.errors import TaftError
from taft_ray.log import current_operation, logger_of
from taft_ray.run.waiting import AGAIN_S, Wait, remove, write
from taft_ray.storage import Store

PATIENCE_S = 30.0  # of a wait, after which it is told, and told again

_log = logger_of(__name__)


class Notice:
    """The note of one command, or of a part of one. A storage that does not take it holds nothing up."""

    def __init__(self, run: str, by: str) -> None:
        self.store, self.name = Store(run), uuid4().hex[:12]
        self.by = f"{current_operation() or 'a command'}: {by}"
        self._said: Wait | None = None

    def says(self, what: str | None, since: float = 0.0) -> None:
        """Write what is waited for, None for nothing, where it changed, and now and then while it lasts."""
        now, said = time.time(), self._said
        if what is None:
            if said is not None:
                self._said = None
                with suppress(TaftError):
                    remove(self.store, self.name)
        elif said is None or said.what != what or now - said.told >= AGAIN_S:
            self._said = Wait(self.by, what, since, now)
            with suppress(TaftError):
                write(self.store, self.name, self._said)


@contextmanager
def told_while(run: str, by: str, what: str, waits: Callable[[], bool]) -> Iterator[None]:
    """As long as the block lasts and ``waits`` holds, it is told that ``by`` waits for ``what``."""
    ended, began = threading.Event(), time.time()
    notice = Notice(run, by)

    def look() -> None:
        while not ended.wait(PATIENCE_S):
            if waits() and not ended.is_set():
                _log.warning("%s has waited for %s for %d s", by, what, time.time() - began)
                notice.says(what, began)
            else:
                notice.says(None)

    looking = threading.Thread(target=copy_context().run, args=(look,), daemon=True)
    looking.start()
    try:
        yield
    finally:
        ended.set()
        looking.join()
        notice.says(None)
