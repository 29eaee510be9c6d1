"""Differentially private gradient descent on a tangent model (dp-gd): clipped gradients of units, summed, with noise.

    Δw ← Δw − η/n · (Σ_i c_i J_iᵀ r_i + σ·C·N(0, I)),   c_i = min(1, C/‖J_iᵀ r_i‖),   r_i = ∂L(J_i Δw, y_i)/∂(J_i Δw)

from Δw = 0, for a number of steps and with a divisor n that are fixed beforehand. The prediction is the tangent term alone, without
f_w(x) (TAFT section 3.4). Each step is a Gaussian mechanism: T of them are √T/σ-Gaussian private (Dong, Roth, Su 2022).

On Poisson batches each unit is in a step's sum with probability q, by itself, and the sum is divided by q·n. A step without anybody
still adds noise and moves. `privacy.sampled` has the accounting. It compares a unit that is in a batch with the same batch without it.
So units are summed apart: blocks of several would move, and round otherwise, which η does not cover. A pass through the network of
other company may still change a value by a step of float32, as with add-remove (`clipping`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from taft_ray.counting import plural
from taft_ray.errors import UsageError
from taft_ray.fitting.clipping import MOST_UNITS, ClippedSum, margin, views
from taft_ray.fitting.config import LARGEST_CLIP, LEAST_CLIP
from taft_ray.fitting.loss import Loss, check_labels
from taft_ray.tangent.delta import Delta
from taft_ray.tangent.gradient_passes import SampledPasses, UnitPasses, unit_passes
from taft_ray.tangent.model import TangentModel
from taft_ray.tangent.options import PREPARED_BUDGET
from taft_ray.tangent.prepared import Pictures

PART = 1 << 18  # parameters that are moved at a time

Noise = Callable[[int, int, float], np.ndarray]
"""(step, count, scale) -> (count,) int64: round(scale · N(0, 1)) each, in units of the grid; each step has its own draws."""

Batches = Callable[[int, int, float], np.ndarray]
"""(step, units, q) -> (units,) bool: who is in the batch, each with a probability of at most q; each step has its own draws."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Poisson batches. rate: q, public. batches: who is in which, which is secret."""

    rate: float
    batches: Batches

    def __post_init__(self) -> None:
        if not 0 < self.rate < 1:
            raise UsageError(f"expected 0 < rate < 1, got {self.rate}; leave the sampling out for full batches")


@dataclass(frozen=True, kw_only=True)
class PrivateRecipe:
    """How private descent descends. None of it may depend on the private data.

    clip: C, the most that the norm of a unit's gradient counts.

    noise_multiplier: σ, the noise's standard deviation over the sensitivity.

    divisor: n, public, which stands for the number of units.
    """

    steps: int
    learning_rate: float
    clip: float
    noise_multiplier: float
    divisor: int

    def __post_init__(self) -> None:
        if self.steps < 1 or self.divisor < 1:
            raise UsageError(f"expected steps and divisor >= 1, got steps={self.steps}, divisor={self.divisor}")
        for name in ("learning_rate", "noise_multiplier"):
            if not 0 < getattr(self, name) < math.inf:  # false for NaN, too
                raise UsageError(f"expected a finite {name} > 0, got {getattr(self, name)}")
        if not LEAST_CLIP <= self.clip <= LARGEST_CLIP:
            raise UsageError(f"expected {LEAST_CLIP:g} <= clip <= {LARGEST_CLIP:g}, got {self.clip}")


@dataclass(frozen=True, kw_only=True)
class PrivateDescent:
    """The result of a private descent. ``delta`` is released; ``nonfinite`` is not: it depends on the data without noise.

    sensitivity: C(1 + η), which the noise was scaled to. nonfinite: gradients (unit × step) that counted as zero because they
    were not finite.
    """

    delta: Delta
    steps: int
    sensitivity: float
    nonfinite: int


class PrivateStep:
    """Private descent, a step at a time. Arguments as those of `private_descent`.

    values: Δw so far, (P,) float64, parameters in the order of `TangentModel.zero_delta`.
    """

    def __init__(
        self,
        tm: TangentModel,
        pictures: Pictures,
        labels: Tensor,
        loss: Loss,
        recipe: PrivateRecipe,
        noise: Noise,
        *,
        units: Tensor | None = None,
        apart: bool = False,
        sampling: Sampling | None = None,
        budget: int = PREPARED_BUDGET,
    ) -> None:
        check_precision(tm)
        self.labels = check_labels(torch.as_tensor(labels), tm.num_classes).to(tm.device)
        for what, given in (("label", self.labels), ("unit", units)):
            if given is not None and len(given) != len(pictures):
                raise UsageError(f"{plural(len(pictures), 'picture')}, but {plural(len(given), what)}")
        if len(pictures) > MOST_UNITS:
            raise UsageError(
                f"{len(pictures)} pictures: expected at most {MOST_UNITS} in a private fit; use more shards"
            )
        self.tm, self.loss, self.recipe, self.noise = tm, loss, recipe, noise
        self.zero = tm.zero_delta()
        self.sum = ClippedSum(self.zero, recipe.clip, apart or sampling is not None)
        self.sensitivity = recipe.clip * (1 + margin(self.zero.numel()))
        self.passes, self.sampling, self._sampled = None, sampling, None
        if len(pictures) and sampling is None:
            self.passes = unit_passes(tm, pictures, units, budget)
        elif len(pictures):
            self._sampled = SampledPasses(tm, pictures, units)
        self.values = torch.zeros(self.zero.numel(), dtype=torch.float64, device=tm.device)
        self.steps = 0

    @property
    def delta(self) -> Delta:
        """Δw in the model's type."""
        return Delta(views(self.values, self.zero)).map(lambda value: value.to(self.tm.dtype))

    @torch.no_grad()
    def __call__(self) -> None:
        recipe, count = self.recipe, len(self.values)
        scale = recipe.noise_multiplier * self.sensitivity / self.sum.unit
        with ThreadPoolExecutor(1) as beside:  # noise is drawn while gradients are summed
            drawing = beside.submit(self.noise, self.steps, count, scale)
            self.sum.clear()
            passes = self.passes if self._sampled is None else self._batch(self._sampled)
            if passes is not None:
                for block, gradients in passes(self.delta, self._residual):
                    self.sum.add(block, gradients, passes.layout)
            drawn = drawing.result()
        if drawn.shape != (count,) or drawn.dtype != np.int64:
            raise UsageError(f"expected noise ({count},) int64, got {drawn.shape} {drawn.dtype}")
        self._move(drawn)
        self.steps += 1

    def _batch(self, sampled: SampledPasses) -> UnitPasses | None:
        """This step's batch; None where nobody is in it."""
        assert self.sampling is not None
        chosen = self.sampling.batches(self.steps, sampled.count, self.sampling.rate)
        if chosen.shape != (sampled.count,) or chosen.dtype != np.bool_:
            raise UsageError(f"expected a batch ({sampled.count},) bool, got {chosen.shape} {chosen.dtype}")
        return sampled.of(torch.from_numpy(chosen))

    def _move(self, drawn: np.ndarray) -> None:
        """Δw ← Δw − learning rate · (sum + noise) / divisor, a part at a time: of many parameters every copy takes memory.

        On batches the divisor is q times as large.
        """
        divisor = self.recipe.divisor if self.sampling is None else self.sampling.rate * self.recipe.divisor
        factor = self.recipe.learning_rate * self.sum.unit / divisor
        for low in range(0, len(drawn), PART):
            part = slice(low, low + PART)
            noisy = self.sum.integers(part) + torch.from_numpy(drawn[part]).to(self.values.device)
            self.values[part] -= noisy.double() * factor

    def _residual(self, logits: Tensor, numbers: Tensor) -> Tensor:
        return self.loss.residual(logits, self.labels[numbers.to(self.labels.device)])


def private_descent(
    tm: TangentModel,
    pictures: Pictures,
    labels: Tensor,
    loss: Loss,
    recipe: PrivateRecipe,
    noise: Noise,
    *,
    units: Tensor | None = None,
    apart: bool = False,
    sampling: Sampling | None = None,
    progress: Callable[[int, int], None] | None = None,
    budget: int = PREPARED_BUDGET,
) -> PrivateDescent:
    """Δw after ``recipe.steps`` private steps on the pictures, labels (n,) in 0..K-1.

    units: (n,) int64, the number of each picture's unit (its owner), whose gradients are summed and clipped together. By default
        each picture is a unit.

    apart: units are summed one by one, so that none changes how others are rounded. It is for neighbours by adding and removing.

    sampling: each step is over a Poisson batch, whose units are summed one by one. It passes through the network with the batch alone.

    budget: bytes for the pictures' constants and the Jacobian's rows. Beyond it each step passes through the network.

    progress: ``progress(steps done, steps)``.

    Guarantees: ``noise`` is called once per step, with the number of all trained parameters, for no pictures too. Zeroing a unit's
        gradient out changes each step's integers by at most C(1 + η)/q, whatever the pictures are. Same arguments, same bits.

    Raises UsageError for products in less than float32, DataError for labels outside the classes, UnsupportedModel where
        gradients do not come apart into pictures.
    """
    step = PrivateStep(
        tm, pictures, labels, loss, recipe, noise, units=units, apart=apart, sampling=sampling, budget=budget
    )
    for done in range(recipe.steps):
        step()
        if progress is not None:
            progress(done + 1, recipe.steps)
    return PrivateDescent(
        delta=step.delta, steps=step.steps, sensitivity=step.sensitivity, nonfinite=step.sum.nonfinite
    )


def check_precision(tm: TangentModel) -> None:
    """UsageError where products have fewer digits than float32, as the bound of the sum's rounding assumes."""
    if tm.dtype.itemsize < 4:
        raise UsageError(f"a private fit with weights of {tm.dtype}: its norms need float32; use --dtype float32")
    if torch.is_autocast_enabled(tm.device.type):
        raise UsageError("a private fit under torch.autocast: its norms need float32; leave autocast")
    lowered = [
        setting
        for setting, is_lower in (
            ("torch.backends.cuda.matmul.allow_tf32", torch.backends.cuda.matmul.allow_tf32),
            ("torch.set_float32_matmul_precision", torch.get_float32_matmul_precision() != "highest"),
            ("torch.backends.mkldnn.matmul.fp32_precision", _mkldnn_precision() not in ("none", "ieee")),
        )
        if is_lower
    ]
    if lowered:
        raise UsageError(f"a private fit with products in TF32 or bfloat16: its norms need float32; reset {lowered[0]}")


def _mkldnn_precision() -> str:
    matmul = getattr(torch.backends.mkldnn, "matmul", None)  # newer versions of torch have it
    return getattr(matmul, "fp32_precision", "none")
