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
    """L(x, y) = 1/K · (α (f_y − κ)² + Σ_{i≠y} f_i²) for "rsl"; "mse" is α = κ = 1; "ce" is cross-entropy."""

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

    def probabilities(self, logits: Tensor) -> Tensor:
        """(B, K) class probabilities that logits stand for; each row is on the simplex.

        Under a quadratic loss the best logit of a class with probability p is ακp / (αp + 1 − p). That is solved for p, and the
        result is moved to the nearest point of the simplex (Euclidean). Under cross-entropy it is the softmax.
        """
        if self.kind == "ce":
            return logits.softmax(-1)
        height, alpha = (self.kappa, self.alpha) if self.kind == "rsl" else (1.0, 1.0)
        if alpha == 1:
            return _on_simplex(logits / height)
        inside = logits.clamp(0, height)  # where the formula holds; beyond it goes on in a straight line
        solved = inside / (alpha * height - (alpha - 1) * inside)
        return _on_simplex(solved + (logits - inside) / (alpha * height))


def _on_simplex(values: Tensor) -> Tensor:
    """(B, K) the nearest points with entries >= 0 that sum to 1."""
    ordered = values.sort(-1, descending=True).values
    excess = (ordered.cumsum(-1) - 1) / torch.arange(1, values.shape[-1] + 1, device=values.device, dtype=values.dtype)
    kept = (ordered > excess).sum(-1, keepdim=True)
    return (values - excess.gather(-1, kept - 1)).clamp(min=0)


def check_labels(labels: Tensor, classes: int) -> Tensor:
    """Labels as (B,) int64; DataError for one outside 0..classes-1."""
    labels = labels.long().flatten()
    if len(labels) and (int(labels.min()) < 0 or int(labels.max()) >= classes):
        bad = labels[(labels < 0) | (labels >= classes)][:4].tolist()
        raise DataError(f"labels {bad} are outside the {classes} classes 0..{classes - 1}")
    return labels
