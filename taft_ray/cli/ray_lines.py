"""Lines that Ray prints beside the answer: dropped, or said in our own words where somebody has to do something."""

from __future__ import annotations

import io
import re
import time
from typing import TextIO

_RAYS = re.compile(r"^(?:\x1b\[[\d;]*m)*\((?:raylet|autoscaler|gcs|.* pid=\d+)[^)]*\)")
_MATTERS = (
    (
        # a line on a worker that died of something else names the OOM killer among its possible causes
        re.compile(r"killed due to (?:memory pressure|the node running low on memory)|OutOfMemoryError", re.IGNORECASE),
        "a worker was killed because its machine ran out of memory; give the run fewer --lanes, or machines with more memory",
    ),
    (
        re.compile(r"cannot be scheduled|insufficient resources|resource demands|no available node", re.IGNORECASE),
        "waiting for CPUs or GPUs: the cluster has none free for this run; ray status shows who holds them",
    ),
    (
        re.compile(r"has been marked dead|Raylet is terminated"),
        "the cluster lost a machine; what it had in hand is done again elsewhere",
    ),
)
_GOES_ON = re.compile(r"\s|$")  # a line of the same message
_AGAIN_S = 60.0  # before the same is said again


class RayLines(io.TextIOBase):
    """A text stream that writes to another one what is not Ray's own."""

    def __init__(self, to: TextIO) -> None:
        self._to, self._rest = to, ""
        self._said: dict[str, float] = {}
        self._in_rays = False  # whether the last line was Ray's

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return self._to.isatty()

    def write(self, text: str) -> int:
        lines = (self._rest + text).split("\n")
        self._rest = lines.pop()
        for line in lines:
            self._line(line)
        return len(text)

    def flush(self) -> None:
        self._to.flush()

    def finish(self) -> None:
        """Write what is left without a line's end."""
        if self._rest:
            self._line(self._rest)
        self._rest = ""

    def _line(self, line: str) -> None:
        self._in_rays = bool(_RAYS.match(line) or (self._in_rays and _GOES_ON.match(line)))
        if not self._in_rays:
            self._to.write(f"{line}\n")
            return
        for pattern, ours in _MATTERS:
            if pattern.search(line) and time.monotonic() - self._said.get(ours, -_AGAIN_S) >= _AGAIN_S:
                self._said[ours] = time.monotonic()
                self._to.write(f"taft-ray: {ours}\n")
                return
