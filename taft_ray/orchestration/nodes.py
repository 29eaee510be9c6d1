"""The nodes of a cluster: which are there, which are about to go, and work that is done on one or on all."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from taft_ray.storage import sweep_copies

T = TypeVar("T")

_KILL_S = 30.0  # a node that does not answer by then is for Ray to give up


def alive() -> set[str]:
    """The ids of the nodes that Ray can reach."""
    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}


def is_going(node: str) -> bool:
    """Whether a node is lost, or was told that it will be: a spot machine, or one that the autoscaler drains."""
    return node not in alive() or node in _draining()


def _draining() -> set[str]:
    from ray._private.state import state  # as Ray Train reads it: there is no public way

    return set(state.get_draining_nodes())


def end_worker(node: str, pid: int) -> bool:
    """Kill a worker of Ray on a node, also one that was stopped or does not answer; whether it was there."""
    if node not in alive():
        return False
    there = NodeAffinitySchedulingStrategy(node, soft=False)
    ending: Any = ray.remote(num_cpus=0)(_end).options(scheduling_strategy=there).remote(pid)
    done, _ = ray.wait([ending], timeout=_KILL_S)
    return bool(done) and ray.get(ending)


def on_every_node(work: Callable[..., T], *arguments: Any) -> list[T]:
    """The answers of a function that is called on each node."""
    task: Any = ray.remote(num_cpus=0)(work)
    there = [NodeAffinitySchedulingStrategy(node, soft=False) for node in sorted(alive())]
    return ray.get([task.options(scheduling_strategy=node).remote(*arguments) for node in there])


def sweep_nodes() -> dict[str, Any]:
    """Remove what processes that have died left of remote objects on the nodes' disks."""
    task: Any = ray.remote(num_cpus=0)(sweep_copies)
    there = [NodeAffinitySchedulingStrategy(node, soft=True) for node in sorted(alive())]  # one may go meanwhile
    swept = ray.get([task.options(scheduling_strategy=node).remote() for node in there])
    return {"nodes": len(swept), "removed": sum(len(names) for names in swept)}


def _end(pid: int) -> bool:
    command = Path(f"/proc/{pid}/cmdline")
    if command.parent.parent.is_dir() and not _is_ray(command):  # its number may be another's by now
        return False
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
        return True
    return False


def _is_ray(command: Path) -> bool:
    with suppress(OSError):
        return command.read_bytes().startswith(b"ray::")
    return False
