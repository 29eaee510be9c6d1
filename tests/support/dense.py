"""The ridge problem of a tiny network as a dense matrix: the oracle of solvers and of Jacobian rows."""

from functools import cache

import torch
from cases import BY_ID, CLASSES, build, images
from torch import Tensor

from taft_ray.fitting import Loss
from taft_ray.tangent import Delta, Prepared, TangentModel, linearize

COUNT = 12


@cache
def problem(trainable: str = "norm", count: int = COUNT) -> tuple[TangentModel, Tensor, Tensor]:
    """(tangent model, tokens, labels): a tiny one; not to be changed."""
    case = BY_ID["vit"]
    tm = linearize(build(case), trainable=trainable)
    labels = torch.randint(CLASSES, (count,), generator=torch.Generator().manual_seed(7))
    return tm, tm.prefix(images(case, count=count, seed=8)), labels


def flat(delta: Delta) -> Tensor:
    return torch.cat([value.flatten() for value in delta.values()])


def jacobian(tm: TangentModel, prepared: Prepared) -> Tensor:
    """(B·K, P), one transposed pass a row."""
    rows = torch.eye(prepared.primal.numel(), dtype=tm.dtype).view(-1, *prepared.primal.shape)
    return torch.stack([flat(tm.vjp(prepared, row)) for row in rows])


class Dense:
    """The same ridge problem as a matrix: A Δw = b, written from TAFT eq. 2 alone."""

    def __init__(self, tm: TangentModel, prepared: Prepared, labels: Tensor, loss: Loss, penalty: float) -> None:
        count, classes = prepared.primal.shape
        jac = jacobian(tm, prepared)
        weights, targets = torch.ones(count, classes, dtype=tm.dtype), torch.zeros(count, classes, dtype=tm.dtype)
        for row, label in enumerate(labels.tolist()):
            weights[row, label] = loss.alpha if loss.kind == "rsl" else 1.0
            targets[row, label] = loss.kappa if loss.kind == "rsl" else 1.0
        d = weights.flatten()
        self.jac, self.primal, self.targets, self.d, self.penalty = jac, prepared.primal, targets, d, penalty
        identity = torch.eye(jac.shape[1], dtype=tm.dtype)
        self.matrix = jac.T @ (d[:, None] * jac) / (count * classes) + penalty * identity
        self.right = jac.T @ (d * (targets - prepared.primal).flatten()) / (count * classes)
        self.optimum = torch.linalg.solve(self.matrix, self.right)

    def objective(self, delta: Tensor) -> float:
        error = (self.primal - self.targets).flatten() + self.jac @ delta
        return float((self.d * error.square()).mean() + self.penalty * delta.square().sum())
