"""Connecting to Ray: the cluster this process belongs to, or one of its own on this machine."""

from __future__ import annotations

import logging
import os
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray

from taft_ray.errors import StorageError
from taft_ray.log import level
from taft_ray.progress import Report, silent

NAMESPACE = "taft_ray"
_ANSWER_S = 20.0
# on a cluster the head outlives spot workers: what must not die with one of them runs there
HEAD = {"node:__internal_head__": 0.001}


_NATIVE = re.compile(rb"\[\d{4}-\d\d-\d\d [\d:,.]+ [A-Z] \d+ \d+\] .*\.cc:\d+: ")
_LOCK = threading.Lock()
_users = 0  # verbs at work on a Ray that they started, in whatever thread


@contextmanager
def connected(report: Report = silent) -> Iterator[None]:
    """Ray, for a verb: the one that this process has joined already, or one that ends with the last verb that uses it."""
    global _users
    with _LOCK:
        own = _users > 0 or not ray.is_initialized()
        starts = not ray.is_initialized()
        if starts:
            report("ray", 0, 1)
        connect()
        if starts:
            report("ray", 1, 1)
        _users += own
    try:
        yield
    finally:
        with _LOCK:
            _users -= own
            if own and not _users:
                ray.shutdown()


def connect() -> None:
    """Join the cluster of RAY_ADDRESS (a submitted job has it), or start Ray on this machine. Idempotent."""
    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # num_gpus=0 must not hide GPUs from a worker
    address = _address()
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # what went wrong comes back as an exception
    _check_answers(address)
    alone: dict[str, Any] = {"include_dashboard": False} if address == "local" else {}
    try:
        with _without_native_lines():
            ray.init(
                address=address, namespace=NAMESPACE, log_to_driver=False, logging_level=logging.ERROR, **alone
            )  # fmt: skip
    except ConnectionError as error:
        raise StorageError(f"no Ray cluster answers at {address}: {error}; unset RAY_ADDRESS or start one") from error
    except Exception as error:  # Ray raises a bare Exception where a machine is too busy to start it in time
        if address != "local" or "timed out" not in str(error):
            raise
        raise StorageError(
            f"Ray did not start on this machine in time ({str(error).partition('. ')[0]}); "
            "run the same command again when the machine is less busy"
        ) from error
    logging.getLogger("ray.train").setLevel(logging.WARNING)


def _address() -> str:
    return os.environ.get("RAY_ADDRESS") or "local"


@contextmanager
def _without_native_lines() -> Iterator[None]:
    """Lines that Ray's C++ parts write to stderr inside the block are dropped, unless records of INFO are wanted."""
    try:
        shown = os.dup(2)
    except OSError:  # this process has no stderr
        yield
        return
    if level() <= logging.INFO:
        os.close(shown)
        yield
        return
    read, write = os.pipe()
    os.dup2(write, 2)
    os.close(write)
    filtering = threading.Thread(target=_pass_on, args=(read, shown), daemon=True)
    filtering.start()
    try:
        yield
    finally:
        os.dup2(shown, 2)  # which closes the pipe's end, unless a process that was started holds it: then it goes on
        filtering.join(0.5)  # which closes both


def _pass_on(read: int, shown: int) -> None:
    """Copy what is written, without lines of Ray's C++ parts, as it comes."""
    rest = b""
    with open(read, "rb", buffering=0) as source, open(shown, "wb", buffering=0) as target:
        while chunk := source.read(1 << 16):
            *lines, rest = (rest + chunk).split(b"\n")
            kept = b"".join(line + b"\n" for line in lines if not _NATIVE.match(line))
            if rest and not rest.startswith(b"["):  # no line of theirs: a progress bar, say
                kept, rest = kept + rest, b""
            target.write(kept)
        target.write(rest)


def _check_answers(address: str) -> None:
    """StorageError when nobody listens at host:port: ray.init would try for many minutes before it says so."""
    host, _, port = address.rpartition(":")
    if "://" in address or not host or not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_S).close()
    except OSError as error:
        raise StorageError(f"no Ray cluster answers at {address}: {error}; unset RAY_ADDRESS or start one") from error


def alone() -> bool:
    """Whether one verb started this Ray, and no other uses it: nobody else wants its cores."""
    return _users == 1 and _address() == "local"


def head_memory(asked: int) -> int:
    """The memory in bytes that an actor on the head may reserve: what it asks for, or 0 where the head has too little.

    Ray never starts an actor that asks for more than there is.
    """
    heads = [node["Resources"] for node in ray.nodes() if node["Alive"] and set(HEAD) <= set(node["Resources"])]
    return reservable(asked, max((int(resources.get("memory", 0)) for resources in heads), default=0))


def reservable(asked: int, there: int) -> int:
    """As much as is asked of the memory that is there, up to half of it; else 0."""
    return asked if 2 * asked <= there else 0
