"""How far a verb is, on stderr: a bar in a terminal, a line now and then in a job's log."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from types import TracebackType
from typing import TYPE_CHECKING

from taft_ray.log import is_json

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

Report = Callable[[str, int, int], None]  # (what, done, total)

_LINE_S = 5.0
_LABELS = {
    "ray": "Ray started",
    "lanes": "workers started",
    "index": "data understood",
    "whitening": "whitening of rows made",
    "prefix": "pictures through the frozen prefix",
    "shards": "shards with a delta",
    "monolith": "comparison model",
    "compose": "shards composed",
    "retrain": "shards retrained",
    "serve": "replicas started",
    "withdraw": "replicas that changed models",
    "predict": "pictures predicted",
    "trials": "trials ended",
    "cells": "cells measured",
    "canaries": "fits with a canary, and without",
    "verify cache": "cache parts checked",
    "verify deltas": "deltas checked",
    "verify retrain": "shards trained again",
}


def silent(what: str, done: int, total: int) -> None:
    """A report that says nothing."""


class ProgressReport:
    """A report callable for the verbs; a context manager.

    A bar never goes back. Work that begins again, such as the pass over another data set, gets a bar of its own.
    """

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet
        self._bars: Progress | None = None
        self._reported = False
        self._tasks: dict[str, TaskID] = {}
        self._said: dict[str, tuple[float, int]] = {}
        self._reached: dict[str, tuple[int, int]] = {}  # done and total of what was reported last
        self._began = time.monotonic()

    def __enter__(self) -> ProgressReport:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def __call__(self, what: str, done: int, total: int) -> None:
        if self.quiet or not total:
            return
        label = _LABELS.get(what, what)
        reached, before = self._reached.get(what, (0, total))
        if done < reached:
            if done and total == before:  # late word of a worker
                return
            self._tasks.pop(what, None)
            self._said.pop(what, None)
        self._reached[what] = (done, total)
        if not self._reported:  # most verbs have nothing to report, and rich takes a while
            self._reported, self._bars = True, _started_bars()
        if self._bars is not None:
            if what not in self._tasks:
                self._tasks[what] = self._bars.add_task(label, total=total)
            self._bars.update(self._tasks[what], completed=done, total=total)
            return
        said, last = self._said.get(what, (-_LINE_S, -1))
        now = time.monotonic() - self._began
        if done != last and (done == total or now - said >= _LINE_S):
            self._said[what] = (now, done)
            print(_line(now, what, label, done, total), file=sys.stderr, flush=True)


def _line(seconds: float, what: str, label: str, done: int, total: int) -> str:
    if not is_json():
        return f"[{seconds:7.1f}s] {label}: {done:,}/{total:,}"
    at = datetime.now(UTC).isoformat(timespec="milliseconds")
    return json.dumps({"time": at, "level": "INFO", "message": label, "progress": what, "done": done, "total": total})


def _started_bars() -> Progress | None:
    """Bars on stderr where it is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    if not console.is_terminal or is_json():
        return None
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    bars = Progress(*columns, console=console, redirect_stdout=False)  # its lines have a filter of their own
    bars.start()
    return bars
