"""Logits of many pictures, and how many of them are right."""

from __future__ import annotations

import torch
from torch import Tensor

from taft_ray.tangent.delta import Delta
from taft_ray.tangent.model import TangentModel
from taft_ray.tangent.prepared import Pictures, batches

_BATCH = 256  # pictures whose logits are formed together


@torch.no_grad()
def logits_of(tm: TangentModel, pictures: Pictures, delta: Delta) -> Tensor:
    """(n, K) float32, on the CPU: the logits of the pictures at ``delta``, formed as `count_correct` forms them."""
    delta = delta.to(tm.device)
    out = torch.empty(len(pictures), tm.num_classes)
    for part, batch in batches(pictures, _BATCH):
        out[part] = (batch.primal + tm.tangent(batch, delta)).float().cpu()
    return out


@torch.no_grad()
def count_correct(tm: TangentModel, pictures: Pictures, labels: Tensor, delta: Delta) -> int:
    """How many of the pictures have their label as the largest logit at ``delta``. labels: (n,)."""
    delta, correct = delta.to(tm.device), 0
    for part, batch in batches(pictures, _BATCH):
        logits = batch.primal + tm.tangent(batch, delta)
        correct += int((logits.argmax(1).cpu() == labels[part]).sum())
    return correct
