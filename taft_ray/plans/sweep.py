"""The definition of a sweep, whether what it saw is still all there, and which of its trials is best."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from taft_ray.counting import plural
from taft_ray.errors import TaftError, UsageError
from taft_ray.plans.fold import replay
from taft_ray.plans.space import OF_COMPOSITION, Dimension
from taft_ray.plans.spec import RunSpec
from taft_ray.plans.state import Entry
from taft_ray.storage import digest_json

OBJECTIVES = ("composed", "whole")
SCHEDULERS = ("asha", "median", "none")
FINISHED, STOPPED, FAILED = "finished", "stopped", "failed"

Result = Mapping[str, Any]  # of a trial, as it is stored


class Committed(Entry, Protocol):
    """A ledger entry with its place in the chain."""

    @property
    def number(self) -> int: ...
    @property
    def digest(self) -> str: ...


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """The parameters of a sweep.

    space: what is varied; () is the default space.

    trials: at most so many.

    held_out: the fraction of the samples that trials are measured on and never fitted on.

    objective: "composed" fits the run's shards and measures the model that they compose to; "whole" fits one model over all.

    scheduler: which trials are stopped early: by successive halving, below the median of the others, or none.
    """

    space: tuple[Dimension, ...] = ()
    trials: int = 24
    held_out: float = 0.2
    objective: str = "composed"
    scheduler: str = "asha"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, allowed in (("objective", OBJECTIVES), ("scheduler", SCHEDULERS)):
            if getattr(self, name) not in allowed:
                raise UsageError(f"{name}={getattr(self, name)!r}: expected one of {', '.join(allowed)}")
        idle = [dimension.name for dimension in self.space if dimension.name in OF_COMPOSITION]
        if idle and self.objective == "whole":
            raise UsageError(f"--vary {idle[0]}: one model is not composed; use --objective composed")
        if not 0 < self.held_out < 1:
            raise UsageError(f"expected 0 < held_out < 1, got {self.held_out}; set --held-out")
        if not 0 <= self.seed < 2**63:
            raise UsageError(f"expected 0 <= seed < 2^63, got {self.seed}; set --seed")

    def name(self, base: RunSpec) -> str:
        """The name of its folder. Trials of one name can be compared; how many are asked for does not matter to that."""
        asked = {"held_out": self.held_out, "objective": self.objective, "scheduler": self.scheduler}
        varied = sorted(str(dimension) for dimension in self.space)
        return digest_json({**asked, "space": varied, "seed": self.seed, "spec": base.to_json()})[:12]


def forgotten_since(entries: Sequence[Committed], number: int, head: str) -> int | None:
    """How many samples were asked to be forgotten after this ledger entry; None when the ledger is another one."""
    if not number < len(entries) or entries[number].digest != head:
        return None
    return len(replay(entries).tombstones.keys() - replay(entries[: number + 1]).tombstones.keys())


def best_of(results: Iterable[Result]) -> Result:
    """The most accurate of the trials that went all the way; the first of equals. TaftError when there is none."""
    results = list(results)
    finished = [result for result in results if result["status"] == FINISHED]
    if not finished:
        reasons = sorted({result["error"] for result in results if result["status"] == FAILED})
        raise TaftError(
            f"none of {plural(len(results), 'trial')} was finished: {'; '.join(reasons[:3]) or 'all were stopped'}"
        )
    return min(finished, key=lambda result: (-result["accuracy"], result["number"]))


def standard_error(accuracy: float, count: int) -> float:
    """The standard error of a proportion that was measured on ``count`` samples."""
    return math.sqrt(accuracy * (1 - accuracy) / count)


def as_good_as(best: Result, results: Iterable[Result]) -> int:
    """How many finished trials are less than one standard error of the best one below it, itself among them."""
    least = best["accuracy"] - standard_error(best["accuracy"], best["held_out"])
    return sum(result["status"] == FINISHED and result["accuracy"] >= least for result in results)
