"""Ridge regression in the tangent space, solved by preconditioned conjugate gradient (tangent.md §5).

    (JᵀDJ/(nK) + λI) Δw = JᵀD(T − f_w)/(nK)

with T the targets, D the class weights. One product with the left side is one tangent pass and one transpose of it. Where
the last block is trained behind the class token, the preconditioner is all but the inverse, and two steps are enough.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from taft_ray.fitting.loss import Loss
from taft_ray.fitting.precondition import preconditioner
from taft_ray.tangent.delta import Delta
from taft_ray.tangent.kernel import JacobianRows
from taft_ray.tangent.model import TangentModel, pullback
from taft_ray.tangent.prepared import Pictures, batches

CHUNK = 256  # pictures a pass: large enough for the matrix products, small enough to stay near the cache
GPU_CHUNK = 2048  # the same on a GPU, where a small pass takes as long as a large one


@dataclass(frozen=True, kw_only=True)
class Solution:
    delta: Delta
    iterations: int
    residual: float  # ‖b − A Δw‖ / ‖b‖, recomputed
    distance_bound: float  # ‖Δw − Δw*‖ at most this
    objective: float
    converged: bool
    history: list[float]  # relative residual of the recurrence, an iteration


class NormalEquations:
    """The ridge problem's left and right side, and its objective, over all pictures."""

    def __init__(self, tm: TangentModel, pictures: Pictures, labels: Tensor, loss: Loss, penalty: float) -> None:
        self.tm, self.pictures, self.labels, self.loss, self.penalty = tm, pictures, labels, loss, penalty
        self.count = len(labels) * tm.num_classes
        self.chunk = GPU_CHUNK if tm.device.type == "cuda" else CHUNK

    def _error(self, primal: Tensor, tangent: Tensor, part: slice) -> tuple[Tensor, Tensor]:
        labels = self.labels[part]
        weights = self.loss.weights(labels, self.tm.num_classes, primal.dtype)
        return weights, primal + tangent - self.loss.targets(labels, self.tm.num_classes, primal.dtype)

    def apply(self, delta: Delta) -> Delta:
        """(JᵀDJ/(nK) + λI)·delta."""
        total = delta * self.penalty
        for part, batch in batches(self.pictures, self.chunk):
            with torch.enable_grad():
                leaves = {name: value.detach().requires_grad_() for name, value in delta.items()}
                tangent = self.tm.tangent(batch, leaves)
                weights = self.loss.weights(self.labels[part], self.tm.num_classes, tangent.dtype)
                total = total + pullback(tangent, leaves, weights * tangent.detach() / self.count)
        return total

    def gradient(self, delta: Delta) -> tuple[Delta, float]:
        """Half the objective's gradient at ``delta``, which is A·delta − b, and the objective itself."""
        total = delta * self.penalty
        objective = self.penalty * float(delta.dot(delta))
        for part, batch in batches(self.pictures, self.chunk):
            with torch.enable_grad():
                leaves = {name: value.detach().requires_grad_() for name, value in delta.items()}
                tangent = self.tm.tangent(batch, leaves)
                weights, error = self._error(batch.primal, tangent.detach(), part)
                total = total + pullback(tangent, leaves, weights * error / self.count)
            objective += float((weights * error.square()).sum(dtype=torch.float64)) / self.count
        return total, objective


def solve(
    tm: TangentModel,
    pictures: Pictures,
    labels: Tensor,
    loss: Loss,
    *,
    penalty: float,
    tolerance: float,
    max_iterations: int,
    start: Delta,
    rows: JacobianRows | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Solution:
    """Preconditioned conjugate gradient from ``start`` until ‖residual‖ ≤ tolerance · ‖b‖. ``rows``: of all pictures, if known.

    The residual and the distance are recomputed from the solution itself. The bound ‖∇L‖/(2λ) = ‖A Δw − b‖/λ holds
    because the objective is 2λ-strongly convex.
    """
    system = NormalEquations(tm, pictures, labels, loss, penalty)
    precondition = preconditioner(tm, pictures, labels, loss, penalty, rows)
    delta = start
    at_zero, _ = system.gradient(start * 0.0)
    scale = float(at_zero.norm())
    is_zero = all(not bool(value.any()) for value in start.values())
    residual = -at_zero if is_zero else -system.gradient(start)[0]
    history: list[float] = []
    iterations = 0
    size = float(residual.norm())
    towards = direction = precondition(residual) if size > tolerance * scale else residual
    slope = residual.dot(towards)
    while iterations < max_iterations and size > tolerance * scale:
        image = system.apply(direction)
        step = slope / direction.dot(image)
        delta = _axpy(delta, step, direction)
        before, residual = residual, _axpy(residual, -step, image)
        size = float(residual.norm())
        iterations += 1
        history.append(size / scale if scale else 0.0)
        if progress is not None:
            progress(iterations, max_iterations)
        if size <= tolerance * scale:
            break
        towards = precondition(residual)
        previous, slope = slope, residual.dot(towards)
        # Polak-Ribière: the preconditioner is rounded, so that one direction's slope is not quite the other's
        direction = _axpy(towards, (slope - before.dot(towards)) / previous, direction)
    gradient, objective = system.gradient(delta)
    size = float(gradient.norm())
    return Solution(
        delta=delta,
        iterations=iterations,
        residual=size / scale if scale else 0.0,
        distance_bound=size / penalty,
        objective=objective,
        # by the true residual: in float32 the recurrence's goes on falling when the true one no longer can
        converged=size <= 1.1 * tolerance * scale,
        history=history,
    )


def certified_distance(
    tm: TangentModel, pictures: Pictures, labels: Tensor, loss: Loss, *, penalty: float, delta: Delta
) -> tuple[float, float]:
    """‖∇L‖/(2λ) at ``delta``, which bounds ‖Δw − Δw*‖; and the same at zero, the scale to see it on."""
    system = NormalEquations(tm, pictures, labels, loss, penalty)
    here, at_zero = (system.gradient(point)[0] for point in (delta, delta * 0.0))
    return float(here.norm()) / penalty, float(at_zero.norm()) / penalty


def _axpy(y: Mapping[str, Tensor], factor: Tensor, x: Mapping[str, Tensor]) -> Delta:
    """y + factor·x."""
    scale = float(factor)
    return Delta({name: torch.add(y[name], x[name], alpha=scale) for name in x})
