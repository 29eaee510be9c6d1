"""The order in which Adam sees a shard's pictures: by sample key, whatever other pictures there are."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from taft_ray.data import epoch_order
from taft_ray.fitting.adam import EpochOrder


def order_by_key(keys: Sequence[bytes]) -> EpochOrder:
    """``order(count, seed, epoch)`` -> the permutation of one epoch. keys: of the pictures, as they are fitted."""

    def order(count: int, seed: int, epoch: int) -> Tensor:
        return torch.from_numpy(epoch_order(keys, seed=seed, epoch=epoch))

    return order
