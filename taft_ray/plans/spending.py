"""The privacy that a run has spent: what its ledger reserved for fits, and whether another fit may still be made.

A reservation is committed before the first draw of noise, and never refunded. Shards are disjoint, so that a run's loss is that
of its dearest shard (parallel composition). The generations of one shard add up. With full batches μ² is additive (Gaussian
differential privacy). Fits on sampled batches are so many steps of one mechanism, by PRV.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

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

    mean_multiplier: σ_m of the release of the rows' mean, beside the steps; of a full-batch fit alone.

    sampling_rate: of Poisson batches; None is the full batch. With it mu is that of the Gaussian mechanism with the same ε at δ, and
    is never added up.

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
    sampling_rate: float | None = optional()

    @property
    def spends(self) -> float:
        """μ of what a full-batch fit releases: √(T/σ² + 1/σ_m²); inf where there is no noise."""
        from taft_ray.privacy import total

        noises = [(self.noise_multiplier, self.steps)]
        if self.mean_multiplier is not None:
            noises.append((self.mean_multiplier, 1))
        return total(math.sqrt(steps) / noise if noise > 0 else math.inf for noise, steps in noises)

    @property
    def digest(self) -> str:
        """The digest of everything that was reserved."""
        return digest_json({name: value for name, value in self.to_json().items() if name != "restored"})


class PrivacyLoss(NamedTuple):
    """The loss of several fits of the same samples together. mu: of full-batch fits.

    sampled: of fits on sampled batches, (σ, q, all their steps): the least σ and the largest q, where they are not alike.

    claimed: (ε, δ) of the one of them with the largest ε. alone: whether it is the only one.
    """

    mu: float
    sampled: tuple[float, float, int] | None = None
    claimed: tuple[float, float] = (0.0, 0.0)
    alone: bool = False


def loss_of(reservations: Iterable[DpReserved], another: Privacy | None = None) -> PrivacyLoss:
    """The loss of these fits, and of one more by the options ``another``.

    A run's fits are all full-batch, or all sampled alike. Fits that differ count as if all had the least noise and the largest rate of
    any. Less noise and larger batches never give away less.
    """
    several: list[DpReserved | Privacy] = list(reservations)
    more: list[DpReserved | Privacy] = [] if another is None else [another]
    if all(one.sampling_rate is None for one in (*several, *more)):
        from taft_ray.privacy import total

        return PrivacyLoss(total([total(one.mu for one in several), *(one.mu for one in more)]))
    several += more
    sigma, steps = min(one.noise_multiplier for one in several), sum(one.steps for one in several)
    rate = max(1.0 if one.sampling_rate is None else one.sampling_rate for one in several)
    return PrivacyLoss(0.0, (sigma, rate, steps), max((one.epsilon, one.delta) for one in several), len(several) == 1)


def epsilon_of_loss(loss: PrivacyLoss, delta: float) -> float:
    """ε of it at δ. Full-batch fits add up exactly, as μ². Sampled ones add up by PRV, as that many steps (`privacy.sampled`).

    One sampled fit by itself has the ε that it was reserved for, which its noise was made for.
    """
    claimed, at = loss.claimed
    if loss.alone and at == delta:
        return claimed
    from taft_ray.privacy import epsilon_of, epsilon_of_sampled

    if loss.sampled is None:
        return epsilon_of(loss.mu, delta)
    sigma, rate, steps = loss.sampled
    if not sigma > 0:  # a ledger that somebody changed
        return math.inf
    found = epsilon_of(math.sqrt(steps) / sigma, delta) if rate >= 1 else epsilon_of_sampled(sigma, rate, steps, delta)
    return max(found, claimed) if at == delta else found


def epsilon_spent(reservations: Iterable[DpReserved], delta: float) -> float:
    """ε of several fits of the same samples."""
    return epsilon_of_loss(loss_of(reservations), delta)


def mu_spent(reservations: Iterable[DpReserved], delta: float) -> float:
    """μ of several fits of the same samples.

    For sampled ones it is that of the Gaussian mechanism with their ε at δ, to be shown and never to be added up.
    """
    from taft_ray.privacy import mu_of

    loss = loss_of(reservations)
    return loss.mu if loss.sampled is None else mu_of(epsilon_of_loss(loss, delta), delta)


def after_another(state: RunState, shard: int, privacy: Privacy) -> float:
    """ε of a shard once it is fitted again."""
    return epsilon_with_another(state.reservations.get(shard, ()), privacy)


def epsilon_with_another(reservations: Iterable[DpReserved], privacy: Privacy) -> float:
    """ε of these fits and one more."""
    return epsilon_of_loss(loss_of(reservations, privacy), privacy.delta)


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
            "epsilon_before": epsilon_spent(state.reservations.get(shard, ()), privacy.delta),
            "epsilon_after": after_another(state, shard, privacy),
        }
        for shard in shards
    ]
    allowed = not any(exceeds(one["epsilon_after"], privacy) for one in told)
    return {"privacy": {"delta": privacy.delta, "budget": privacy.budget, "neighbours": told, "allowed": allowed}}


def spent_by(state: RunState, privacy: Privacy) -> dict[str, Any]:
    """The privacy that a run has spent: {"epsilon", "delta", "budget"}, by its dearest shard."""
    losses = {loss_of(several) for several in state.reservations.values()}  # most shards' are equal
    epsilon = max((epsilon_of_loss(loss, privacy.delta) for loss in losses), default=0.0)
    return {"epsilon": epsilon, "delta": privacy.delta, "budget": privacy.budget}
