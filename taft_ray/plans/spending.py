"""The privacy that a run has spent: what its ledger reserved for fits, and whether another fit may still be made.

A reservation is committed before the first draw of noise, and never refunded. Shards are disjoint, so that a run's loss is that
of its dearest shard (parallel composition). The generations of one shard add up: μ² is additive (Gaussian differential privacy).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from taft_ray.errors import BudgetExceeded
from taft_ray.jsonable import optional
from taft_ray.plans.fact import Fact, ObjectRef
from taft_ray.plans.privacy import Privacy
from taft_ray.storage import digest_json

if TYPE_CHECKING:
    from taft_ray.plans.state import RunState

_ROUNDING = 1e-9  # of an ε, on another machine


@dataclass(frozen=True)
class DpReserved(Fact):
    """Privacy reserved for one fit. key: the noise key's object, and the commitment to it. inputs: digest of what is fitted.

    divisor: the public number of the mean. mu, noise_multiplier: of the whole fit, and of one step. epsilon, delta: of it alone.

    mean_multiplier: σ_m of the release of the rows' mean, beside the steps.

    public: digests of the public inputs. restored: from what was kept beside the run; the fit itself is not in this copy.
    """

    KIND = "dp-reserved"
    shard: int
    generation: int
    inputs: str
    key: ObjectRef
    mu: float
    noise_multiplier: float
    epsilon: float
    delta: float
    steps: int
    clip: float
    learning_rate: float
    divisor: int
    unit: str
    adjacency: str
    accountant: str
    public: Mapping[str, Any] = field(default_factory=dict)
    restored: bool = optional(False)
    mean_multiplier: float | None = optional()

    @property
    def spends(self) -> float:
        """μ of what the fit releases: √(T/σ² + 1/σ_m²); inf where there is no noise."""
        from taft_ray.privacy import total

        noises = [(self.noise_multiplier, self.steps)]
        if self.mean_multiplier is not None:
            noises.append((self.mean_multiplier, 1))
        return total(math.sqrt(steps) / noise if noise > 0 else math.inf for noise, steps in noises)

    @property
    def digest(self) -> str:
        """The digest of everything that was reserved."""
        return digest_json({name: value for name, value in self.to_json().items() if name != "restored"})


def spent(reservations: Iterable[DpReserved]) -> float:
    """μ of several fits of the same samples."""
    from taft_ray.privacy import total

    return total(one.mu for one in reservations)


def epsilon_spent(mu: float, delta: float) -> float:
    """ε of a μ."""
    from taft_ray.privacy import epsilon_of

    return epsilon_of(mu, delta)


def after_another(state: RunState, shard: int, privacy: Privacy) -> float:
    """ε of a shard once it is fitted again."""
    return epsilon_with_another(state.reservations.get(shard, ()), privacy)


def epsilon_with_another(reservations: Iterable[DpReserved], privacy: Privacy) -> float:
    """ε of these fits and one more."""
    from taft_ray.privacy import total

    return epsilon_spent(total([spent(reservations), privacy.mu]), privacy.delta)


def over_budget(state: RunState, shards: Iterable[int], privacy: Privacy | None) -> dict[int, float]:
    """The shards that a further fit would bring above the cap, and ε then. A fit that is paid for already may be made."""
    if privacy is None or privacy.budget is None:
        return {}
    return {
        shard: after
        for shard in shards
        if not _paid(state, shard) and exceeds(after := after_another(state, shard, privacy), privacy)
    }


def exceeds(epsilon: float, privacy: Privacy) -> bool:
    """Whether an ε is above the cap."""
    return privacy.budget is not None and epsilon > privacy.budget * (1 + _ROUNDING)


def _paid(state: RunState, shard: int) -> bool:
    """Whether the fit that a shard waits for was reserved, and not made."""
    known = state.shards.get(shard)
    if known is None or known.delta is not None:
        return False
    return any(one.generation == known.current and not one.restored for one in state.reservations.get(shard, ()))


def check_budget(state: RunState, shards: Iterable[int], privacy: Privacy, *, what: str) -> None:
    """BudgetExceeded where a further fit of one of the shards would spend more than the cap."""
    over = {s: after for s in shards if exceeds(after := after_another(state, s, privacy), privacy)}
    if over:
        shard, after = max(over.items(), key=lambda one: one[1])
        raise BudgetExceeded(
            f"{what} would bring shard {shard} to ε = {after:.4g}, above the budget of {privacy.budget:g} (δ = {privacy.delta:g}). "
            "Nothing was done; forget by drop, which costs no privacy"
        )


def cost_of_retrain(state: RunState, shards: Iterable[int], privacy: Privacy | None) -> dict[str, Any]:
    """The cost of a forget to those who stay, as "privacy": {"delta", "neighbours", "allowed"}; nothing in a run that is not private.

    neighbours: of each shard that is fitted again, its samples and its ε before and after. A drop has none.
    """
    if privacy is None:
        return {}
    told = [
        {
            "shard": shard,
            "samples": state.shards[shard].samples,
            "epsilon_before": epsilon_spent(spent(state.reservations.get(shard, ())), privacy.delta),
            "epsilon_after": after_another(state, shard, privacy),
        }
        for shard in shards
    ]
    allowed = not any(exceeds(one["epsilon_after"], privacy) for one in told)
    return {"privacy": {"delta": privacy.delta, "budget": privacy.budget, "neighbours": told, "allowed": allowed}}


def spent_by(state: RunState, privacy: Privacy) -> dict[str, Any]:
    """The privacy that a run has spent: {"epsilon", "delta", "budget"}, by its dearest shard."""
    dearest = max((spent(several) for several in state.reservations.values()), default=0.0)
    return {"epsilon": epsilon_spent(dearest, privacy.delta), "delta": privacy.delta, "budget": privacy.budget}
