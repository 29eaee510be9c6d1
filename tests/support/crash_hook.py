"""Imported by `sitecustomize` in every process of a command under test: counts its changes of storage, and dies at one.

* TAFT_CRASH_LOG      a file that gets a line per change: the role of the process that makes it
* TAFT_CRASH_AT       "role:n:marker": the process of this role dies (signal 9) before its n-th change (from 1), once, which
                      the marker file remembers
"""

import importlib.abc
import importlib.machinery
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

WATCHED = "taft_ray.storage.local"
CHANGES = ("write", "create", "upload", "delete")
_ROLES = {"Composer": "composer", "PartWriter": "prefix actor"}
_made: Counter[str] = Counter()


def role() -> str:
    """Whose work is on the stack: an actor's class, a lane's loop, or none of them, which is the driver."""
    found = "driver"
    frame = sys._getframe()
    while frame is not None:
        # the class of the method, not of the object: Ray Data gives an actor's class another name
        kind = frame.f_code.co_qualname.partition(".")[0]
        if kind in _ROLES:
            return _ROLES[kind]
        if frame.f_code.co_name == "lane_loop":
            return "lane"
        if kind == "ShardWorker":
            found = "retrain actor"
        frame = frame.f_back
    return found


def _counted(real: Callable[..., Any]) -> Callable[..., Any]:
    def change(*args: Any) -> Any:
        mine = role()
        _made[mine] += 1
        with open(os.environ["TAFT_CRASH_LOG"], "a") as log:
            log.write(f"{mine}\n")
        wanted, n, marker = os.environ.get("TAFT_CRASH_AT", "::").split(":", 2)
        if mine == wanted and _made[mine] == int(n):
            try:
                os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                return real(*args)
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args)

    return change


class _Watch(importlib.abc.MetaPathFinder):
    """Wraps the module's class as soon as it is imported."""

    def find_spec(self, name: str, path: Any, target: ModuleType | None = None) -> Any:
        if name != WATCHED:
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is None or spec.loader is None:
            return None
        load = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            load(module)
            for change in CHANGES:
                setattr(module.LocalFolder, change, _counted(getattr(module.LocalFolder, change)))

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def install(folder: Path) -> None:
    """Make every process whose PYTHONPATH has ``folder`` first import this."""
    (folder / "sitecustomize.py").write_text(
        f"import sys\nsys.path.append({str(Path(__file__).parent)!r})\nimport crash_hook\ncrash_hook.start()\n"
    )


def start() -> None:
    if "TAFT_CRASH_LOG" in os.environ:
        sys.meta_path.insert(0, _Watch())
