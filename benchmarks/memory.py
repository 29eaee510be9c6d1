"""Memory of this process and of all below it, by role, while something runs."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

# a role is what its processes' command lines hold; Ray writes there what a worker is running
ROLES: Mapping[str, tuple[str, ...]] = {
    "actors": ("PrefixActor",),
    "tasks": ("ray::MapBatches", "ray::IDLE", "ray::RayDataTask"),
    "object store": ("raylet/raylet",),
}


@dataclass
class MemoryWatch:
    """``with MemoryWatch() as watch``: afterwards ``peak`` has the most MB that each role held at one time.

    "driver" is this process; "object store" the shared memory of Ray's daemon; elsewhere memory that others share is not
    counted. Linux only: it reads /proc.
    """

    every_s: float = 0.25
    peak: dict[str, float] = field(default_factory=dict)
    before: dict[str, float] = field(default_factory=dict)
    _ended: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        self.before = held()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            for role, megabytes in held().items():
                self.peak[role] = max(self.peak.get(role, 0.0), megabytes)
            if self._ended.wait(self.every_s):
                return


def held() -> dict[str, float]:
    """MB by role, now."""
    total = {"driver": _private("self"), **dict.fromkeys(ROLES, 0.0)}
    for pid in _below(os.getpid()):
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            role = next((role for role, words in ROLES.items() if any(word in command for word in words)), None)
            if role is not None:
                total[role] += _shared(pid) if role == "object store" else _private(pid)
        except (OSError, ValueError):
            continue  # it has ended
    return total


def _private(pid: int | str) -> float:
    return _status(pid, "RssAnon")


def _shared(pid: int | str) -> float:
    return _status(pid, "RssShmem")


def _status(pid: int | str, name: str) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / 1e3
    return 0.0  # a process that is ending has none


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
