"""Counting what a tangent model has right."""

from __future__ import annotations

import torch
from torch import Tensor

from taft_ray.tangent.delta import Delta
from taft_ray.tangent.model import TangentModel
from taft_ray.tangent.prepared import Pictures, batches

_BATCH = 256  # pictures whose logits are formed together


@torch.no_grad()
def count_correct(tm: TangentModel, pictures: Pictures, labels: Tensor, delta: Delta) -> int:
    """How many of the pictures have their label as the largest logit at ``delta``. labels: (n,)."""
    delta, correct = delta.to(tm.device), 0
    for part, batch in batches(pictures, _BATCH):
        logits = batch.primal + tm.tangent(batch, delta)
        correct += int((logits.argmax(1).cpu() == labels[part]).sum())
    return correct
