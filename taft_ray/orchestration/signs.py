"""When a worker that gives no sign of life is looked at, and when it is given up: decided from what was heard, and when.

A busy machine is no reason. A silent worker is looked at by its own machine's word, which knows a stopped process from a slow
one. Only much longer silence than any that ended is a reason by itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from taft_ray.composer.leases import LEAST_S, TIMES

LOOK_S = 5.0  # between two looks at what was heard
SILENT_S = 15.0  # of silence, after which a worker's machine is asked what it does
_MOST_S = 2 * LOOK_S  # that one look adds to a silence: whoever was held up before it heard nothing meanwhile


@dataclass
class _Heard:
    count: int
    silence: float = 0.0  # seconds, as far as somebody listened


class Signs:
    """Signs of life of some workers, each of which counts its own. ``clock``: seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._heard: dict[str, _Heard] = {}
        self._longest = 0.0  # silence after which a worker went on
        self._before = clock()

    def hear(self, counts: Mapping[str, int]) -> dict[str, float]:
        """Take what each worker has counted so far; the silent ones, with the seconds. A worker that is not named has gone."""
        now = self.clock()
        passed, self._before = min(now - self._before, _MOST_S), now
        heard: dict[str, _Heard] = {}
        for worker, count in counts.items():
            known = self._heard.get(worker)
            if known is None or known.count != count:
                self._longest = max(self._longest, known.silence + passed if known is not None else 0.0)
                heard[worker] = _Heard(count)
            else:
                heard[worker] = _Heard(count, known.silence + passed)
        self._heard = heard
        return {worker: known.silence for worker, known in heard.items() if known.silence >= SILENT_S}

    @property
    def patience(self) -> float:
        """Seconds of silence after which a worker is given up that its machine does not call stopped."""
        return max(LEAST_S, TIMES * self._longest)
