"""One thread for a computation whose last bits must not depend on how sums are split among threads."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import numpy as np  # noqa: F401  # its BLAS must be loaded when it is looked for
from threadpoolctl import ThreadpoolController

_TURN = threading.RLock()  # the setting is the process's: whoever leaves first would give others their threads back


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """BLAS and LAPACK of numpy and scipy on one thread inside the block. Threads of the process take turns in it."""
    with _TURN, _controller("scipy.linalg" in sys.modules).limit(limits=1, user_api="blas"):
        yield


@cache
def _controller(with_scipy: bool) -> ThreadpoolController:
    """Found once, and once more when scipy has brought its own BLAS: looking through a process's libraries takes 25 ms."""
    return ThreadpoolController()
