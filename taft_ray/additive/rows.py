"""Rows: what is kept of a picture, S whole numbers of 16 bits on a grid of 2^-15. Legend: n pictures, S numbers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from taft_ray.additive.grid import BITS, LARGEST, UNIT
from taft_ray.additive.projection import Projection
from taft_ray.additive.sites import site_vectors
from taft_ray.errors import DataError


def to_rows(a: Tensor) -> np.ndarray:
    """(n, S) floating -> int16 (n, S). Vectors longer than about 1 are shortened, and numbers are rounded to the nearest step.

    Guarantees: |row| <= 1 in units of the grid, exactly: the sum of squares is at most 2^30.
    Raises DataError for values that are not finite.
    """
    a = a.detach().double()
    if not bool(torch.isfinite(torch.linalg.vector_norm(a, dim=1)).all()):
        raise DataError("a picture's sites are not finite; use another precision, or weights that fit the network")
    return on_grid(a).to(torch.int16).cpu().numpy()


def on_grid(a: Tensor) -> Tensor:
    """(n, S) float64 -> the whole numbers of `to_rows`, still float64: for a graph, which cannot check values."""
    lengths = torch.linalg.vector_norm(a, dim=1, keepdim=True)
    # rounding lengthens a vector by half a step per number at most, and float64 errs by far less than the last factor
    most = (1 - 0.5 * UNIT * a.shape[1] ** 0.5) * (1 - 2.0**-40)
    a = a * (most / lengths.clamp_min(most))
    return (a * 2.0**BITS).round().clamp(-LARGEST, LARGEST)


def rows_of(
    network: nn.Module, projection: Projection, images: Tensor, through: Callable[[Tensor], object] | None = None
) -> np.ndarray:
    """One forward pass: images (n, 3, H, W) -> int16 (n, S). through: see `site_vectors`."""
    return to_rows(projection(site_vectors(network, projection.sites, images, through)))
