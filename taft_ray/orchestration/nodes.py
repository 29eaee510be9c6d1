"""The nodes of a cluster: which are there, which are about to go, and work that is done on one or on all."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from taft_ray.storage import sweep_copies

T = TypeVar("T")

_KILL_S = 30.0  # a node that does not answer by then is for Ray to give up
_POLL_S = 0.5
ENDED, GONE, RUNS = "ended", "gone", "runs"  # what a machine says of a silent process


@dataclass(frozen=True)
class Process:
    """A process of a machine. node: Ray's id of it. born: its start, as the machine counts; None where it does not say."""

    node: str
    pid: int
    born: int | None


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


def look_at(silent: Mapping[str, tuple[Process, bool]], enough: threading.Event) -> dict[str, str]:
    """Have machines end these processes where they were stopped, or are overdue: what each was found to be, by name.

    A machine that is lost has no processes; one that does not answer in time has no say. enough: set to wait no longer.
    """
    there = alive()
    answers = {name: GONE for name, (process, _) in silent.items() if process.node not in there}
    asked: dict[Any, list[str]] = {}
    task: Any = ray.remote(num_cpus=0)(_look)
    for node in {process.node for process, _ in silent.values()} & there:
        names = [name for name, (process, _) in silent.items() if process.node == node]
        processes = [(silent[name][0].pid, silent[name][0].born, silent[name][1]) for name in names]
        where = NodeAffinitySchedulingStrategy(node, soft=False)
        asked[task.options(scheduling_strategy=where).remote(processes)] = names
    left = list(asked)
    until = time.monotonic() + _KILL_S
    while left and not enough.is_set() and time.monotonic() < until:
        done, left = ray.wait(left, timeout=_POLL_S)
        for one in done:
            answers |= zip(asked[one], ray.get(one), strict=True)
    return answers


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


def born(pid: int) -> int | None:
    """When a process of this machine began, in ticks; None where there is none, or no telling."""
    fields = _stat(pid)
    return None if fields is None else int(fields[19])


def end_silent(pid: int, since: int | None, overdue: bool) -> str:
    """End this process of this machine where it was stopped, or is overdue; what it was found to be. since: `born`."""
    fields = _stat(pid)
    if fields is None or int(fields[19]) != since:
        known = Path("/proc/self/stat").is_file()  # else nobody knows whether the number is another's by now
        return GONE if known else RUNS
    if fields[0] == "T" or overdue:  # stopped by a signal; not by a debugger, nor waiting for a disk
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        return ENDED
    return RUNS


def _look(processes: list[tuple[int, int | None, bool]]) -> list[str]:
    return [end_silent(*process) for process in processes]


def _stat(pid: int) -> list[str] | None:
    """The fields of the process's status from its state on."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return None


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
