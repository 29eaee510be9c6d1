"""Stop a thread at its n-th change of storage: die before or after it, or hold still there until it is woken."""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

from taft_ray.storage.local import LocalFolder

CHANGES = ("write", "create", "delete", "upload")
DIE_BEFORE, DIE_AFTER, STALL = "die before", "die after", "stall"


class Killed(BaseException):
    """The process is gone: nothing of the package may catch this."""


class Fault:
    """A fault at the n-th change (from 1) that a thread makes of storage."""

    def __init__(self, kind: str, n: int) -> None:
        self.kind, self.left = kind, n
        self.reached, self.go = threading.Event(), threading.Event()
        self.dies = False  # set before waking: it was killed while it held still

    def around(self, change: Callable[[], Any]) -> Any:
        self.left -= 1
        if self.left:
            return change()
        if self.kind == DIE_BEFORE:
            raise Killed
        if self.kind == STALL:
            self.reached.set()
            self.go.wait()
            if self.dies:
                raise Killed
        answer = change()
        if self.kind == DIE_AFTER:
            raise Killed
        return answer


_here = threading.local()


@contextmanager
def fault(planned: Fault | None) -> Iterator[None]:
    """This thread's changes of storage meet the fault."""
    _here.fault = planned
    try:
        yield
    finally:
        _here.fault = None


def _meeting(real: Callable[..., Any]) -> Callable[..., Any]:
    def change(*args: Any) -> Any:
        planned = getattr(_here, "fault", None)
        return real(*args) if planned is None else planned.around(lambda: real(*args))

    return change


@contextmanager
def faults_possible() -> Iterator[None]:
    """Local folders meet faults, and do not sync: a power failure is not what is tested."""
    with ExitStack() as patches:
        patches.enter_context(mock.patch("os.fsync"))
        for name in CHANGES:
            patches.enter_context(mock.patch.object(LocalFolder, name, _meeting(getattr(LocalFolder, name))))
        yield


class Stalled:
    """A call in a thread of its own that holds still at its n-th change, or has ended before it came so far."""

    def __init__(self, call: Callable[[], Any], n: int) -> None:
        self._fault = Fault(STALL, n)
        self.error: BaseException | None = None
        self.answer: Any = None
        self._thread = threading.Thread(target=self._run, args=(call,), daemon=True)
        self._thread.start()
        while self._thread.is_alive() and not self._fault.reached.wait(0.001):
            pass

    def _run(self, call: Callable[[], Any]) -> None:
        with fault(self._fault):
            try:
                self.answer = call()
            except BaseException as error:
                self.error = error

    @property
    def ended(self) -> bool:
        return not self._thread.is_alive()

    def wake(self, dies: bool = False) -> None:
        """Let it go on to its end, or die where it is."""
        self._fault.dies = dies
        self._fault.go.set()
        self._thread.join()
