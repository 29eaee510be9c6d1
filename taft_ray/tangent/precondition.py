"""What makes conjugate gradient on the ridge problem take few steps: the inverse of its matrix on some pictures, by their kernel.

    A_S = BᵀB/(mK) + λI,   B = √D·J_S (m pictures),   A_S⁻¹ r = (r − Bᵀ(BBᵀ + mKλI)⁻¹ B r)/λ         (Woodbury)

With all of a shard's pictures in S this is A⁻¹ up to rounding; with a part of them it takes out the large eigenvalues.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from taft_ray.errors import UnsupportedModel
from taft_ray.tangent.delta import Delta
from taft_ray.tangent.kernel import JacobianRows
from taft_ray.tangent.loss import Loss
from taft_ray.tangent.model import TangentModel
from taft_ray.tangent.prepared import Pictures

WHOLE = 4096  # outputs (pictures times classes) up to which the whole kernel is factorised
PART = 4096  # outputs of the pictures that stand for all where there are more

Preconditioner = Callable[[Delta], Delta]


class Woodbury:
    """A_S⁻¹ for the given pictures."""

    def __init__(self, tm: TangentModel, pictures: Pictures, labels: Tensor, loss: Loss, penalty: float, take: Tensor):
        self.tm, self.penalty = tm, penalty
        self.prepared = pictures[take]
        weights = loss.weights(labels[take], tm.num_classes, self.prepared.primal.dtype)
        self.root = weights.sqrt()  # (m, K)
        kernel = JacobianRows(tm, self.prepared).gram()
        root = self.root.flatten().double()
        kernel *= root[:, None] * root
        # float32 products: below this an eigenvalue is rounding, and might be negative
        rounding = 1e-7 * float(kernel.diagonal().sum())
        kernel.diagonal().add_(max(penalty * root.numel(), rounding))
        self.factor = torch.linalg.cholesky(kernel)

    def __call__(self, residual: Delta) -> Delta:
        image = self.root * self.tm.tangent(self.prepared, residual)
        solved = torch.cholesky_solve(image.flatten().double()[:, None], self.factor)
        back = self.tm.vjp(self.prepared, self.root * solved.view_as(image).to(image))
        return (residual - back) / self.penalty


def preconditioner(tm: TangentModel, pictures: Pictures, labels: Tensor, loss: Loss, penalty: float) -> Preconditioner:
    """The best there is for this problem; the identity where the Jacobian's rows do not come apart."""
    count = len(labels)
    if count * tm.num_classes > WHOLE:
        few = max(1, PART // tm.num_classes)
        take = torch.linspace(0, count - 1, few).round().long()
    else:
        take = torch.arange(count)
    try:
        return Woodbury(tm, pictures, labels, loss, penalty, take)
    except UnsupportedModel:
        return lambda residual: residual
