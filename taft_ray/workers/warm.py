"""Staying warm between calls: a worker that leaves by itself when it has had nothing to do for a while."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


def in_use(method: Callable[P, T]) -> Callable[P, T]:
    """A method of a `Warm` worker, during which it is not idle."""

    @wraps(method)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        worker: Any = args[0]
        worker.calls += 1
        try:
            return method(*args, **kwargs)
        finally:
            worker.calls -= 1
            worker.last_use = time.monotonic()

    return call


class Warm:
    """Ends its process after ``idle_s`` seconds without a call; never with None."""

    def __init__(self, idle_s: float | None) -> None:
        self.calls, self.last_use, self.idle_s = 0, time.monotonic(), idle_s
        if idle_s is not None:
            threading.Thread(target=self.leave_when_idle, daemon=True).start()

    def leave_when_idle(self) -> None:
        while self.calls or time.monotonic() - self.last_use < (self.idle_s or 0):
            time.sleep(0.5)
        os._exit(0)  # a detached actor ends itself: nothing is lost, its deltas are in storage

    def leave_sooner(self, idle_s: float) -> None:
        """Stay idle no longer than this: somebody waits for what this worker holds."""
        if self.idle_s is not None:
            self.idle_s = min(self.idle_s, idle_s)

    def ready(self) -> bool:
        return True
