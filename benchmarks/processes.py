"""Memory and CPU time of this process and of all below it, by role, while something runs. Linux only: it reads /proc."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Self

TICKS = os.sysconf("SC_CLK_TCK")
# a role is what its processes' command lines hold; Ray writes there what a worker is running
ROLES: Mapping[str, str] = {"actors": "PartWriter", "tasks": "ray::MapBatches"}


class Held(NamedTuple):
    """The role, memory and CPU time of one process, now."""

    role: str
    private_mb: float
    shared_mb: float
    cpu_s: float


@dataclass
class ProcessWatch:
    """``with ProcessWatch() as watch``: then ``peak_mb`` has the most memory that each role held at one time.

    "driver" is this process, "ray" what else runs below it. "object store" is the most of Ray's shared memory that one
    process had in use; elsewhere memory that others share is not counted.
    """

    every_s: float = 0.25
    peak_mb: dict[str, float] = field(default_factory=dict)
    _cpu: dict[int, Held] = field(default_factory=dict)  # by process, as last seen: one that has ended counts on
    _points: list[tuple[float, dict[str, float]]] = field(default_factory=list)
    _ended: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def cpu_s(self, since: float, until: float) -> dict[str, float]:
        """CPU seconds by role between two times of ``time.perf_counter``, to the nearest sample."""
        first, last = (min(self._points, key=lambda point: abs(point[0] - at))[1] for at in (since, until))
        return {role: last[role] - first.get(role, 0.0) for role in last}

    def _watch(self) -> None:
        last = False
        while True:
            self._sample()
            if last:
                return
            last = self._ended.wait(self.every_s)

    def _sample(self) -> None:
        now, sizes = time.perf_counter(), {"object store": 0.0}
        for pid in (os.getpid(), *_below(os.getpid())):
            try:
                seen = _held(pid)
            except (OSError, ValueError, IndexError):
                continue  # it has ended
            if seen.role == "ray" and pid in self._cpu:  # a task's process between two tasks
                seen = seen._replace(role=self._cpu[pid].role)
            self._cpu[pid] = seen
            sizes[seen.role] = sizes.get(seen.role, 0.0) + seen.private_mb
            sizes["object store"] = max(sizes["object store"], seen.shared_mb)
        for role, size in sizes.items():
            self.peak_mb[role] = max(self.peak_mb.get(role, 0.0), size)
        total: dict[str, float] = {}
        for seen in self._cpu.values():
            total[seen.role] = total.get(seen.role, 0.0) + seen.cpu_s
        self._points.append((now, total))


def _held(pid: int) -> Held:
    command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    role = "driver" if pid == os.getpid() else next((role for role, word in ROLES.items() if word in command), "ray")
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    private, shared = (int(status.get(name, "0").split()[0]) / 1e3 for name in ("RssAnon", "RssShmem"))
    times = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return Held(role, private, shared, (int(times[11]) + int(times[12])) / TICKS)


def _below(of: int) -> list[int]:
    parent_of: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                parent_of[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, ValueError, IndexError):
                continue
    found: list[int] = []
    level = {of}
    while level:
        level = {pid for pid, parent in parent_of.items() if parent in level}
        found += level
    return found
