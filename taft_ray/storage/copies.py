"""Copies of remote objects on this machine: a folder per process, removed when it exits, swept when it was killed.

A process holds a kernel lock (`flock`) on its folder as long as it lives, however it ends. The lock and not a process
number decides who is dead. Numbers are used again, and containers that share a temporary folder count on their own.
"""

import atexit
import fcntl
import os
import shutil
import stat
import tempfile
import threading
from contextlib import suppress
from pathlib import Path

PREFIX = "taft-ray-copies-"

_FOLDERS: dict[int, tuple[Path, int]] = {}  # process number → folder and the descriptor that holds its lock
_LOCK = threading.Lock()


def copies() -> Path:
    """The folder of this process, ``taft-ray-copies-<process number>-…`` among the temporary files; made once."""
    with _LOCK:
        pid = os.getpid()
        if pid not in _FOLDERS:
            _FOLDERS[pid] = _locked_folder(pid)
            atexit.register(_remove, pid)
        return _FOLDERS[pid][0]


def sweep_copies() -> list[str]:
    """Remove the copies of dead processes from this machine; the folders that went, sorted.

    Guarantees: a living process's copies stay, also in another container that shares the temporary folder. Nothing of
    another user, and nothing through a symbolic link, is touched. Looks into the temporary folder of this process's
    environment (TMPDIR) only. Safe to call in several processes at once.
    """
    swept = []
    for folder in sorted(Path(tempfile.gettempdir()).glob(f"{PREFIX}*")):
        with suppress(OSError):  # gone, locked by its living owner, or not ours to open
            descriptor = _open(folder)
            try:
                if os.fstat(descriptor).st_uid != os.getuid():
                    continue
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _is(folder, descriptor):
                    shutil.rmtree(folder)
                    swept.append(os.fspath(folder))
            finally:
                os.close(descriptor)
    return swept


def _locked_folder(pid: int) -> tuple[Path, int]:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{pid}-"))
        descriptor = _open(folder)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if _is(folder, descriptor):  # else a sweep took it between its making and its lock
            return folder, descriptor
        os.close(descriptor)


def _open(folder: Path) -> int:
    return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)


def _is(folder: Path, descriptor: int) -> bool:
    try:
        there = os.stat(folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return stat.S_ISDIR(there.st_mode) and os.path.samestat(there, os.fstat(descriptor))


def _remove(pid: int) -> None:
    # a forked child inherits the registration, not the folder
    if pid == os.getpid() and pid in _FOLDERS:
        folder, descriptor = _FOLDERS.pop(pid)
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


def _let_go_in_child() -> None:
    # a fork shares the lock: closed here, it ends with the parent, and is the child's no longer
    global _LOCK
    _LOCK = threading.Lock()  # another thread may have held it when the process forked
    for _, descriptor in _FOLDERS.values():
        os.close(descriptor)
    _FOLDERS.clear()


os.register_at_fork(after_in_child=_let_go_in_child)
