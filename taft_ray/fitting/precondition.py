"""The preconditioner that makes conjugate gradient on the ridge problem take few steps: the inverse of its matrix on some pictures, by their kernel.

    A_S = BᵀB/(mK) + λI,   B = √D·J_S (m pictures),   A_S⁻¹ r = (r − Bᵀ(BBᵀ + mKλI)⁻¹ B r)/λ         (Woodbury)

With all of a shard's pictures in S this is A⁻¹ up to rounding; with a part of them it takes out the large eigenvalues.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from taft_ray.errors import UnsupportedModel
from taft_ray.fitting.loss import Loss
from taft_ray.tangent.delta import Delta
from taft_ray.tangent.kernel import JacobianRows, jacobian_rows
from taft_ray.tangent.model import TangentModel
from taft_ray.tangent.prepared import Pictures, Prepared

WHOLE = 4096  # outputs (pictures times classes) up to which the whole kernel is factorised
GPU_WHOLE = 12288  # the same on a GPU: 4 GB at most, beside the Jacobian's rows; where that is too much, WHOLE
PART = 4096  # outputs of the pictures that stand for all where there are more

Preconditioner = Callable[[Delta], Delta]


class Woodbury:
    """A_S⁻¹ from the Jacobian's rows of the pictures in S, with ``weights`` (m, K), D."""

    def __init__(self, rows: JacobianRows, weights: Tensor, penalty: float) -> None:
        self.rows, self.penalty = rows, penalty
        self.root = weights.sqrt()
        root = self.root.flatten().double()
        kernel = rows.gram()
        kernel *= root[:, None] * root
        # float32 products: below this an eigenvalue is rounding, and might be negative
        rounding = 1e-7 * float(kernel.diagonal().sum())
        kernel.diagonal().add_(max(penalty * root.numel(), rounding))
        self.factor = torch.linalg.cholesky(kernel)

    def __call__(self, residual: Delta) -> Delta:
        image = self.root * self.rows.jvp(residual)
        solved = torch.cholesky_solve(image.flatten().double()[:, None], self.factor)
        return (residual - self.rows.vjp(self.root * solved.view_as(image).to(image))) / self.penalty


def preconditioner(
    tm: TangentModel, pictures: Pictures, labels: Tensor, loss: Loss, penalty: float, rows: JacobianRows | None = None
) -> Preconditioner:
    """The best there is for this problem; the identity where the Jacobian's rows do not come apart. ``rows``: of all pictures, if known."""
    try:
        if not isinstance(pictures, Prepared):
            jacobian_rows(tm, [pictures[torch.zeros(1, dtype=torch.int64)]])  # before many are prepared for it
        try:
            return _of_some(tm, pictures, labels, loss, penalty, whole(tm.device), rows)
        except torch.OutOfMemoryError:
            if whole(tm.device) <= WHOLE:
                raise
        return _of_some(tm, pictures, labels, loss, penalty, WHOLE)
    except UnsupportedModel:
        return lambda residual: residual


def _of_some(
    tm: TangentModel,
    pictures: Pictures,
    labels: Tensor,
    loss: Loss,
    penalty: float,
    limit: int,
    rows: JacobianRows | None = None,
) -> Woodbury:
    take = taken(len(labels), tm.num_classes, limit)
    known = rows if rows is not None else jacobian_rows(tm, [pictures[take]])[0]
    return Woodbury(known, loss.weights(labels[take], tm.num_classes, tm.dtype), penalty)


def whole(device: torch.device) -> int:
    """Outputs of a shard up to which the whole kernel is factorised."""
    return GPU_WHOLE if device.type == "cuda" else WHOLE


def taken(count: int, classes: int, limit: int) -> Tensor:
    """Which of ``count`` pictures go into S: all while there are no more outputs than ``limit``, else a part, evenly spread."""
    if count * classes <= limit:
        return torch.arange(count)
    return torch.linspace(0, count - 1, max(1, PART // classes)).round().long()
