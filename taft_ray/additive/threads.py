"""One thread for a computation whose last bits must not depend on how sums are split among threads."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache

import numpy as np  # noqa: F401  # its BLAS must be loaded when it is looked for
import scipy.linalg  # noqa: F401  # as above
import torch
from threadpoolctl import ThreadpoolController

_TURN = threading.RLock()  # the setting is the process's: whoever leaves first would give others their threads back


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """BLAS and LAPACK of numpy and scipy on one thread inside the block. Threads of the process take turns in it."""
    with _TURN, _controller().limit(limits=1, user_api="blas"):
        yield


@contextmanager
def one_torch_thread() -> Iterator[ThreadPoolExecutor]:
    """A pool whose task computes on one thread of torch; torch's setting, which is the process's, is put back afterwards."""
    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield pool
    finally:
        torch.set_num_threads(threads)


@cache
def _controller() -> ThreadpoolController:
    """Found once: looking through the libraries of a process takes 25 ms."""
    return ThreadpoolController()
