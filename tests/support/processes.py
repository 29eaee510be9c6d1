"""Processes by id, from /proc: the descendants of one of ours, and ending them."""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any


def descendants(of: int) -> list[int]:
    """The ids of all processes below one."""
    parent_of: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError, ValueError, IndexError):
                parent_of[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    found, level = [], {of}
    while level:
        level = {pid for pid, parent in parent_of.items() if parent in level}
        found += sorted(level)
    return found


def named(pids: Iterable[int], word: str) -> list[int]:
    """Those whose command line holds ``word``."""
    return [pid for pid in pids if word in command_line(pid)]


def command_line(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return ""


def end(pids: Iterable[int], patience: float = 30) -> None:
    """Wait until they are gone; kill those that stay."""
    left = set(pids)
    deadline = time.monotonic() + patience
    while left and time.monotonic() < deadline:
        left = {pid for pid in left if command_line(pid)}
        time.sleep(0.1)
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def wait_for(what: Callable[[], Any], seconds: float = 120, every: float = 0.02) -> Any:
    """The first answer that is true."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if answer := what():
            return answer
        time.sleep(every)
    raise TimeoutError(what)
