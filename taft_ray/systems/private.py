"""How a cell is fitted privately. Source: TAFT (Liu et al., ICLR 2024), sections 3.4 and 4.5: full batch, 50 steps, cross-entropy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from taft_ray.errors import UsageError

WAYS = ("descent", "sums")
DELTA = 1e-5


@dataclass(frozen=True, kw_only=True)
class Private:
    """Each shard's fit is (ε, δ)-differentially private. epsilon: inf adds no noise, and clips all the same.

    way: "descent", or "sums" of a cell on sites. features: S of a cell on sites.
    """

    epsilon: float
    delta: float = DELTA
    way: str = "descent"
    steps: int = 50
    learning_rate: float = 1.0
    clip: float = 1.0
    features: int = 1024

    def __post_init__(self) -> None:
        if self.way not in WAYS:
            raise UsageError(f"way={self.way!r}: expected one of {', '.join(WAYS)}")
        if not self.epsilon > 0 or not 0 < self.delta < 1:
            raise UsageError(f"epsilon={self.epsilon}, delta={self.delta}: expected ε > 0 and 0 < δ < 1")

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "epsilon": None if math.isinf(self.epsilon) else self.epsilon}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Private:
        return cls(**{**values, "epsilon": math.inf if values["epsilon"] is None else values["epsilon"]})
