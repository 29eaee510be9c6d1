"""Connecting to Ray: the cluster this process belongs to, or one of its own on this machine."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray

from taft_ray.errors import NoDevice, StorageError

NAMESPACE = "taft_ray"
_ANSWER_S = 20.0
# on a cluster the head outlives spot workers: what must not die with one of them runs there
HEAD = {"node:__internal_head__": 0.001}


@contextmanager
def connected() -> Iterator[None]:
    """Ray, for a verb: the one that this process has joined already, or one that ends with the verb."""
    joined = ray.is_initialized()
    connect()
    try:
        yield
    finally:
        if not joined:
            ray.shutdown()


def connect() -> None:
    """Join the cluster of RAY_ADDRESS (a submitted job has it), or start Ray on this machine. Idempotent."""
    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # num_gpus=0 must not hide GPUs from a worker
    address = os.environ.get("RAY_ADDRESS") or "local"
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # what went wrong comes back as an exception
    _check_answers(address)
    alone: dict[str, Any] = {"include_dashboard": False} if address == "local" else {}
    try:
        ray.init(
            address=address, namespace=NAMESPACE, log_to_driver=False, logging_level=logging.ERROR, **alone
        )  # fmt: skip
    except ConnectionError as error:
        raise StorageError(f"no Ray cluster answers at {address}: {error}; unset RAY_ADDRESS or start one") from error
    logging.getLogger("ray.train").setLevel(logging.WARNING)


def _check_answers(address: str) -> None:
    """StorageError when nobody listens at host:port: ray.init would try for many minutes before it says so."""
    host, _, port = address.rpartition(":")
    if "://" in address or not host or not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_S).close()
    except OSError as error:
        raise StorageError(f"no Ray cluster answers at {address}: {error}; unset RAY_ADDRESS or start one") from error


def resources() -> tuple[int, int]:
    """(CPUs, GPUs) of the cluster, as Ray counts them now."""
    total = ray.cluster_resources()
    return int(total.get("CPU", 0)), int(total.get("GPU", 0))


def check_device(device: str) -> None:
    """NoDevice when the run wants GPUs and the cluster neither has one nor can start one."""
    if device != "cuda" or resources()[1] > 0 or os.environ.get("TAFT_RAY_AUTOSCALED_GPUS"):
        return
    raise NoDevice(
        "device=cuda, but this cluster has no GPU; use --device cpu, or, where an autoscaler adds GPU workers, "
        "set TAFT_RAY_AUTOSCALED_GPUS=<how many at most>"
    )
