"""Canaries: made-up units with known gradients, fitted as private units are, and how much of each one is in what was released.

A linear loss with a fixed slope has the same gradient at every Δw. All gradients are far above C, so that each unit counts as C·u at
each step. T steps with a unit and without it differ by T·C·u. No unit can do more, whatever the loss. So

    z = −⟨Δw, u⟩·n / (η·σ·C·√T)     is N(0, 1) without the canary, and N(μ, 1) with it, μ = √T/σ

for the noise that the recipe names. Privacy must hold for any loss, for what is clipped does not matter to its proof.

On sampled batches the divisor is q·n. A canary that is in m of the T batches has the mean μ·m/T.
Legend: M canaries, P trained parameters, K classes.
"""

from __future__ import annotations

import math
import secrets
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from taft_ray.additive import RowsModel
from taft_ray.additive.rows import on_grid
from taft_ray.errors import UsageError
from taft_ray.fitting import PrivateRecipe, Sampling, private_descent
from taft_ray.fitting.loss import Loss
from taft_ray.fitting.private import Batches, Noise
from taft_ray.tangent import Delta, Prepared, TangentModel, prepare_pictures

ABOVE = 16.0  # times C: so long is the shortest gradient
MEMORY = 1 << 30  # bytes of all gradients
FAULT = 3.0  # times that noise is too small where guesses are at their best
PER_OWNER = 3  # pictures of a canary, where the unit is an owner


@dataclass(frozen=True, kw_only=True)
class LinearLoss(Loss):
    """L(f, y) = slope · (mean of f − f_y), whose derivative by f is the same everywhere."""

    slope: float = 1.0

    def residual(self, logits: Tensor, labels: Tensor) -> Tensor:
        """(B, K): 1/K − e_y, times the slope."""
        return self.slope * (1 / logits.shape[-1] - F.one_hot(labels, logits.shape[-1]).to(logits.dtype))


def most_canaries(tm: TangentModel) -> tuple[int, int]:
    """How many canaries do not get in each other's way much, and how many gradients there is memory for."""
    parameters = tm.zero_delta().numel()
    most = max(2, MEMORY // (4 * parameters))
    return min(most, max(2, parameters // 4)), most


def random_tokens(tm: TangentModel, count: int, size: int, random: torch.Generator) -> Tensor:
    """Made-up input of the suffix: rows of length 1, or tokens as large as those of a grey picture.

    size: a picture's, in pixels.
    """
    like = tm.prefix(torch.zeros(1, 3, size, size, device=tm.device))
    shape = (count, *like.shape[1:])
    if isinstance(tm, RowsModel):
        rows = torch.randn(shape, generator=random, dtype=torch.float64)[:, 0]
        return on_grid(rows / torch.linalg.vector_norm(rows, dim=1, keepdim=True)).to(torch.int16)[:, None]
    mean, deviation = float(like.float().mean()), float(like.float().std())
    return torch.randn(shape, generator=random) * deviation + mean


class Canaries:
    """Canaries of one model: gradients of length 1, and private fits with some of them as the only data.

    Nothing that a run has is read or written.
    """

    def __init__(
        self,
        tm: TangentModel,
        tokens: Tensor,
        labels: Tensor,
        recipe: PrivateRecipe,
        *,
        of_owners: bool = False,
        rate: float | None = None,
    ) -> None:
        """tokens, labels: of each canary a picture; of an owner `PER_OWNER` consecutive ones. rate: of sampled batches."""
        if tm.num_classes < 2:
            raise UsageError("an audit of privacy needs two classes: with one nothing is learned")
        self.tm, self.recipe, self.rate, self._of_owners = tm, recipe, rate, of_owners
        self._of = torch.arange(len(labels)).split(PER_OWNER if of_owners else 1)  # the pictures of each
        self._pictures, self._labels = prepare_pictures(tm, tokens), labels
        slopes = LinearLoss().residual(torch.zeros(len(labels), tm.num_classes, device=tm.device), labels.to(tm.device))
        shortest = math.inf
        self.gradients = torch.empty(len(self._of), tm.zero_delta().numel(), device=tm.device)
        for row, own in zip(self.gradients, self._of, strict=True):
            gradient = tm.vjp(self._pictures[own], slopes[own])
            length = float(gradient.norm())
            if not (math.isfinite(length) and length > 0):
                raise UsageError("a canary has no gradient: this model cannot be audited")
            row.copy_(_flat(gradient)).div_(length)
            shortest = min(shortest, length)
        self._loss = LinearLoss(slope=ABOVE * recipe.clip / shortest)

    @classmethod
    def random(
        cls,
        tm: TangentModel,
        count: int,
        size: int,
        recipe: PrivateRecipe,
        *,
        of_owners: bool = False,
        rate: float | None = None,
    ) -> Canaries:
        """So many of them, drawn afresh. size: of the model's pictures, in pixels."""
        random = torch.Generator().manual_seed(secrets.randbits(63))
        pictures = count * (PER_OWNER if of_owners else 1)
        labels = torch.randint(tm.num_classes, (pictures,), generator=random)
        return cls(tm, random_tokens(tm, pictures, size, random), labels, recipe, of_owners=of_owners, rate=rate)

    def __len__(self) -> int:
        return len(self._of)

    @property
    def mu(self) -> float:
        """μ of the recipe: how far a canary moves its z that is in every batch."""
        return math.sqrt(self.recipe.steps) / self.recipe.noise_multiplier

    def scores(
        self, chosen: np.ndarray, noise: Noise, wanted: slice = slice(None), batches: Batches | None = None
    ) -> np.ndarray:
        """A private fit of the chosen canaries (indices), and nothing else: z of the ``wanted`` ones.

        batches: who is in which of sampled batches; everybody in each by default.
        """
        several = [self._of[number] for number in chosen.tolist()]
        own = torch.cat(several) if several else torch.zeros(0, dtype=torch.int64)
        pictures = self._pictures[own] if several else Prepared(torch.zeros(0, self.tm.num_classes), {}, 0)
        units = torch.arange(len(several)).repeat_interleave(PER_OWNER) if self._of_owners else None
        recipe, divisor, sampling = self.recipe, float(self.recipe.divisor), None
        if self.rate is not None:
            sampling, divisor = Sampling(rate=self.rate, batches=batches or everybody), self.rate * divisor
        made = private_descent(
            self.tm, pictures, self._labels[own], self._loss, recipe, noise, units=units, sampling=sampling
        )
        scale = recipe.learning_rate * recipe.noise_multiplier * recipe.clip * math.sqrt(recipe.steps) / divisor
        return (self.gradients[wanted] @ _flat(made.delta)).double().cpu().numpy() / -scale

    def expected(self, scores: np.ndarray) -> np.ndarray:
        """(M,): the best linear guess of how much each canary was in, less ½, where each was by a fair coin. scores: z of all.

        z = μ·G·b + N(0, G/f²) with the gradients' products G:  Ê[b − ½] = μ/4 · (1/f² + μ²/4 · G)⁻¹ (z − μ/2 · G·1).

        On sampled batches μ is q times as large, the mean. f is `FAULT`. An audit is to see noise that is too small, and then canaries
        get in each other's way more.
        """
        products = (self.gradients @ self.gradients.T).double().cpu().numpy()
        mu = self.mu if self.rate is None else self.rate * self.mu
        rest = scores - mu / 2 * products.sum(axis=1)
        return mu / 4 * np.linalg.solve(np.eye(len(self)) / FAULT**2 + mu**2 / 4 * products, rest)


def everybody(step: int, units: int, rate: float) -> np.ndarray:
    """Batches that every unit is in."""
    return np.ones(units, bool)


def _flat(delta: Delta) -> Tensor:
    return torch.cat([value.flatten() for value in delta.values()])
