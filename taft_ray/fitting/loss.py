"""The three losses: rescaled square loss (TAFT eq. 2), mean squared error, cross-entropy.

Legend: B batch, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from taft_ray.errors import DataError
from taft_ray.fitting.config import check_loss


@dataclass(frozen=True, kw_only=True)
class Loss:
    """L(x, y) = 1/K · (α (f_y − κ)² + Σ_{i≠y} f_i²) for "rsl". "mse" is α = κ = 1; "ce" is cross-entropy."""

    kind: str = "rsl"
    kappa: float = 15.0
    alpha: float = 1.0

    def __post_init__(self) -> None:
        check_loss(self.kind, self.kappa, self.alpha)

    @property
    def is_quadratic(self) -> bool:
        return self.kind != "ce"

    def targets(self, labels: Tensor, classes: int, dtype: torch.dtype) -> Tensor:
        """(B, K): κ at the true class, 0 elsewhere."""
        height = self.kappa if self.kind == "rsl" else 1.0
        return F.one_hot(labels, classes).to(dtype) * height

    def weights(self, labels: Tensor, classes: int, dtype: torch.dtype) -> Tensor:
        """(B, K): α at the true class, 1 elsewhere."""
        alpha = self.alpha if self.kind == "rsl" else 1.0
        return 1 + F.one_hot(labels, classes).to(dtype) * (alpha - 1)

    def per_sample(self, logits: Tensor, labels: Tensor) -> Tensor:
        """(B,) losses."""
        if self.kind == "ce":
            return F.cross_entropy(logits, labels, reduction="none")
        classes = logits.shape[-1]
        error = logits - self.targets(labels, classes, logits.dtype)
        return (self.weights(labels, classes, logits.dtype) * error.square()).sum(-1) / classes

    def residual(self, logits: Tensor, labels: Tensor) -> Tensor:
        """(B, K): each sample's loss differentiated by its logits."""
        classes = logits.shape[-1]
        if self.kind == "ce":
            return logits.softmax(-1) - F.one_hot(labels, classes)
        error = logits - self.targets(labels, classes, logits.dtype)
        return self.weights(labels, classes, logits.dtype) * error * (2 / classes)


def check_labels(labels: Tensor, classes: int) -> Tensor:
    """Labels as (B,) int64; DataError for one outside 0..classes-1."""
    labels = labels.long().flatten()
    if len(labels) and (int(labels.min()) < 0 or int(labels.max()) >= classes):
        bad = labels[(labels < 0) | (labels >= classes)][:4].tolist()
        raise DataError(f"labels {bad} are outside the {classes} classes 0..{classes - 1}")
    return labels
