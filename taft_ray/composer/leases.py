"""Leases of lanes, in memory: which of them fits which shard, their signs
of life, and how often a fit lost its worker.

A lost lease costs a fit, never a fact. So nothing of it is in the ledger, and a composer that is made again knows none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from taft_ray.composer.asking import Clock

LOSSES = 3  # workers that the fits of a shard may lose
SAID_S = 60.0  # of silence, after which a person is told
LEAST_S, LONGEST_S = (
    300.0,
    1800.0,
)  # of silence, after which a worker is given up: where fits were measured, and where none was
TIMES = 20  # the longest silence of a fit that came to an end

What = int | str  # a shard, or the comparison model


@dataclass(frozen=True)
class Worker:
    """A process in which a lane runs. node: Ray's id of its machine. life: another one for each process."""

    life: str
    node: str
    pid: int


@dataclass
class _Lane:
    worker: Worker | None
    heard: float  # when it gave the last sign of life
    silence: float = 0.0  # the longest so far
    error: str | None = None  # the kind of error that its fit ended with


class Leases:
    """Leases by lane. ``clock``: unix seconds. ``gone``: whether a machine is lost, or about to go."""

    def __init__(self, clock: Clock, gone: Callable[[str], bool] = lambda node: False) -> None:
        self.clock, self.gone = clock, gone
        self.losses: Counter[What] = Counter()
        self.fruitless = 0  # workers lost since a fit came to an end
        self.steps = 0  # fits that came to an end, and workers that were lost with their machines
        self.timeout: float | None = None  # seconds of silence, where a person has said
        self._held: dict[What, str] = {}
        self._lanes: dict[str, _Lane] = {}
        self._longest: float | None = None
        self._errors: dict[What, str] = {}  # the kind that a lost fit ended with

    def __contains__(self, what: What) -> bool:
        return what in self._held

    def __len__(self) -> int:
        return len(self._held)

    def arrive(self, lane: str, worker: Worker | None) -> list[What]:
        """A lane asks for work: what it held is free. Returns what was lost with the worker that it had before.

        The same worker asks again when it has finished or cannot go on: then nothing was lost.
        """
        known = self._lanes.get(lane)
        held = [what for what, holder in self._held.items() if holder == lane]
        self.give_up(lane)
        self._lanes[lane] = _Lane(worker, self.clock())
        before = known.worker if known is not None else None
        if before is None or worker is None or before == worker or not held:
            return []
        if self.gone(before.node):
            self.steps += 1
            return []
        self.fruitless += 1
        self.losses.update(held)
        if known is not None and known.error is not None:
            self._errors.update(dict.fromkeys(held, known.error))
        return held

    def is_replaced(self, lane: str, worker: Worker | None) -> bool:
        """Whether a worker that asks was given up with its machine, and its lane goes on in another one: it may live on there."""
        known = self._lanes.get(lane)
        other = known.worker if known is not None else None
        return worker is not None and other is not None and other != worker and self.gone(worker.node)

    def lend(self, lane: str, whats: Iterable[What]) -> None:
        """These are the lane's from now on."""
        self._held.update(dict.fromkeys(whats, lane))
        self._lanes.setdefault(lane, _Lane(None, 0.0)).heard = self.clock()

    def give_up(self, lane: str) -> None:
        """The lane's leases are free for others."""
        self._held = {what: holder for what, holder in self._held.items() if holder != lane}

    def leave(self, lane: str) -> None:
        """The lane goes home, or has failed for good."""
        self.give_up(lane)
        self._lanes.pop(lane, None)

    def hear(self, lane: str) -> None:
        """A sign of life."""
        known = self._lanes.get(lane)
        if known is not None:
            now = self.clock()
            known.silence, known.heard = max(known.silence, now - known.heard), now

    def failed(self, lane: str, error: str) -> None:
        """The lane's fit ended with this kind of error, and its worker ends with it."""
        if lane in self._lanes:
            self._lanes[lane].error = error

    def why(self, what: What) -> str:
        """How its fits were lost."""
        error = self._errors.get(what)
        return f"{self.losses[what]} workers were lost while they fitted it" + (f", one by {error}" if error else "")

    def ended(self, what: What) -> None:
        """A fit came to an end, whatever became of it."""
        self.fruitless, self.steps = 0, self.steps + 1
        self.losses.pop(what, None)
        lane = self._held.get(what)
        if lane is not None:
            self.hear(lane)
            self._longest = max(self._longest or 0.0, self._lanes[lane].silence)

    @property
    def patience(self) -> float:
        """Seconds of silence after which a worker is given up."""
        if self.timeout is not None:
            return self.timeout
        return LONGEST_S if self._longest is None else max(LEAST_S, TIMES * self._longest)

    def silent(self) -> list[dict[str, Any]]:
        """The lanes that have said nothing for a while: "lane", "held", "seconds", "overdue", "worker" (life, node, pid)."""
        if not self._lanes:
            return []
        now, patience = self.clock(), self.patience
        return [
            {
                "lane": name,
                "held": [what for what, lane in self._held.items() if lane == name],
                "seconds": now - lane.heard,
                "overdue": now - lane.heard > patience,
                "worker": lane.worker,
            }
            for name, lane in self._lanes.items()
            if now - lane.heard > min(SAID_S, patience)
        ]
