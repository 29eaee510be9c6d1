"""How a cell is fitted privately. Source: TAFT (Liu et al., ICLR 2024), sections 3.4 and 4.5: full batch, 50 steps, cross-entropy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from taft_ray.errors import UsageError
from taft_ray.plans.privacy import Privacy

WAYS = ("descent", "sums")
WHITENINGS = ("none", "pink-noise", "public")
DELTA = 1e-5


@dataclass(frozen=True, kw_only=True)
class Private:
    """Each shard's fit is (ε, δ)-differentially private. epsilon: inf adds no noise, and clips all the same.

    way: "descent", or "sums" of a cell on sites. features: its S, as of a run by default. whitening: the pictures that whiten its rows.

    mean_share, logit_noise: of descent on rows, as of a run's `Privacy`.

    per_owner: the pictures of each made-up owner, who is the unit of such a descent.
    """

    epsilon: float
    delta: float = DELTA
    way: str = "descent"
    steps: int = 50
    learning_rate: float = 1.0
    clip: float = 1.0
    features: int | None = None
    whitening: str = "none"
    mean_share: float | None = None
    logit_noise: float | None = None
    per_owner: int = 1

    def __post_init__(self) -> None:
        for name, known in (("way", WAYS), ("whitening", WHITENINGS)):
            if getattr(self, name) not in known:
                raise UsageError(f"{name}={getattr(self, name)!r}: expected one of {', '.join(known)}")
        if self.per_owner < 1 or (self.per_owner > 1 and self.way != "descent"):
            raise UsageError(
                f"per_owner={self.per_owner} of {self.way}: expected a number >= 1, and descent for more than 1"
            )
        if not self.epsilon > 0 or not 0 < self.delta < 1:
            raise UsageError(f"epsilon={self.epsilon}, delta={self.delta}: expected ε > 0 and 0 < δ < 1")

    @property
    def promise(self) -> Privacy | None:
        """The options of a run whose fits would be the same; None at ε = ∞, which no run has."""
        if math.isinf(self.epsilon):
            return None
        return Privacy(
            epsilon=self.epsilon, delta=self.delta, steps=self.steps, clip=self.clip, learning_rate=self.learning_rate,
            mean_share=self.mean_share, logit_noise=self.logit_noise,
        )  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        told = {**asdict(self), "epsilon": None if math.isinf(self.epsilon) else self.epsilon}
        if self.per_owner == 1:
            del told["per_owner"]
        return told

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Private:
        return cls(**{**values, "epsilon": math.inf if values["epsilon"] is None else values["epsilon"]})
