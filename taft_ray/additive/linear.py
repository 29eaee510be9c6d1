"""A head on rows, as a tangent model: logits J·Δw with Δw = (W, b), linear in what is trained. For private fits on rows.

A row's Jacobian is the row itself, of length one at most. So a sample's gradient is bounded without clipping: by √2·|r|, with the
error r of its probabilities. Legend: B pictures, S numbers, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from taft_ray.additive.centring import Centre
from taft_ray.additive.grid import BITS, UNIT
from taft_ray.additive.projection import Projection
from taft_ray.additive.rows import on_grid, rows_of
from taft_ray.additive.sites import site_vectors
from taft_ray.tangent.delta import Delta
from taft_ray.tangent.model import TangentModel
from taft_ray.tangent.prepared import Pictures, Prepared
from taft_ray.tangent.trained import linear_tangent

WEIGHT, BIAS = "head.weight", "head.bias"
_ROWS = "rows"
_PART = 4096  # rows at a time


class Whitened:
    """Pictures whose rows a are M·a − t: what a fit reads instead of ``pictures``. matrix: M (S, S), symmetric; shift: t (S,)."""

    def __init__(self, pictures: Pictures, matrix: Tensor, shift: Tensor | None = None) -> None:
        self.pictures, self.matrix, self.shift = pictures, matrix, shift

    @classmethod
    def about(cls, pictures: Pictures, centre: Centre | None, matrix: Tensor | None = None) -> Whitened | None:
        """s·M·(a − m) of a `Centre` m, s. None where neither is given. matrix: M, float64; by default the identity."""
        if centre is None:
            return None if matrix is None else cls(pictures, matrix)
        scaled = centre.scale * (torch.eye(len(centre.mean), dtype=torch.float64) if matrix is None else matrix)
        return cls(pictures, scaled, scaled @ torch.from_numpy(centre.mean))

    def whole(self) -> Pictures:
        """All of it where its constants are in memory."""
        in_memory = isinstance(self.pictures, Prepared) and len(self.pictures)
        return self[slice(0, len(self.pictures))] if in_memory else self

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: Tensor | slice) -> Prepared:
        some = self.pictures[index]
        rows = some.saved[_ROWS]
        matrix = self.matrix.to(rows.device)
        if self.shift is None:
            return Prepared(some.primal, {_ROWS: (rows.double() @ matrix).float()}, token_count=0)
        found, shift = torch.empty_like(rows), self.shift.to(rows.device)
        for start in range(0, len(rows), _PART):  # float64 of all rows would take four times their memory
            part = slice(start, start + _PART)
            found[part] = rows[part].double() @ matrix - shift
        return Prepared(some.primal, {_ROWS: found}, token_count=0)

    def back(self, delta: Delta) -> Delta:
        """Δw on a from that on M·a − t: W·M, and b − W·t."""
        weight, bias = delta[WEIGHT].double(), delta[BIAS].double()
        if self.shift is not None:
            bias = bias - weight @ self.shift.to(bias.device)
        return Delta({BIAS: bias.to(delta[BIAS]), WEIGHT: (weight @ self.matrix.to(weight.device)).to(delta[WEIGHT])})


class HeadOnRows(TangentModel):
    """Rows (B, 1, S) int16 -> logits (B, K): W·a + b, with W = b = 0 where nothing is trained.

    It has what fits and measurements need of a tangent model. Pictures have no part in it: a `RowsModel` makes rows of them.
    """

    def __init__(self, size: int, classes: int) -> None:
        nn.Module.__init__(self)
        self.class_token, self.trained, self.tangent_only = None, frozenset((BIAS, WEIGHT)), True
        self.classes, self.size = classes, size

    @property
    def num_classes(self) -> int:
        return self.classes

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    @property
    def base(self) -> Mapping[str, Tensor]:
        """Zeros: W (K, S) and b (K,)."""
        zeros = torch.zeros(self.num_classes, self.size + 1, device=self.device)
        return {BIAS: zeros[:, 0].contiguous(), WEIGHT: zeros[:, 1:].contiguous()}

    @torch.no_grad()
    def prepare(self, tokens: Tensor, known: Mapping[str, Tensor] | None = None) -> Prepared:
        """The constants of rows (B, 1, S) int16: their numbers in units of 1."""
        rows = tokens[:, 0].to(self.device, torch.float32) * UNIT
        return Prepared(rows.new_zeros(len(rows), self.num_classes), {_ROWS: rows}, token_count=0)

    def stored(self, pictures: Pictures) -> np.ndarray:
        """The rows of prepared pictures: int16 (n, S)."""
        rows = np.empty((len(pictures), self.size), np.int16)
        for start in range(0, len(rows), _PART):
            part = slice(start, start + _PART)
            rows[part] = (pictures[part].saved[_ROWS].double() * 2.0**BITS).cpu().numpy()
        return rows

    def layer_outputs(self, tokens: Tensor) -> dict[str, Tensor]:
        """None: rows are all that there is."""
        return {}

    def tangent(self, prepared: Prepared, delta: Mapping[str, Tensor]) -> Tensor:
        """W·a + b, (B, K)."""
        base = prepared.primal.new_zeros(0)
        out = linear_tangent(delta, WEIGHT, BIAS, prepared.saved[_ROWS], None, base)
        return torch.zeros_like(prepared.primal) if out is None else out

    def logits(self, prepared: Prepared, delta: Mapping[str, Tensor]) -> Tensor:
        """The tangent term alone."""
        return self.tangent(prepared, delta)


class RowsModel(HeadOnRows):
    """A head on the rows of a projection: a network linearised around a head of zeros behind it.

    ``prefix`` makes rows of pictures. Nothing of the network is trained.
    """

    network: nn.Module

    def __init__(self, network: nn.Module, projection: Projection, classes: int) -> None:
        super().__init__(projection.sites.size, classes)
        self.network, self.projection = network.eval(), projection

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    def prefix(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> int16 (B, 1, S)."""
        return torch.from_numpy(rows_of(self.network, self.projection, images))[:, None]

    def forward(self, images: Tensor, delta: Mapping[str, Tensor]) -> Tensor:
        """Normalised pictures (B, 3, H, W) -> logits (B, K), of the rows that would be stored, rounding included."""
        self.zero_delta().check_like(delta)
        a = on_grid(self.projection(site_vectors(self.network, self.projection.sites, images))) * UNIT
        return (a.to(delta[WEIGHT].dtype) @ delta[WEIGHT].T + delta[BIAS]).to(images.dtype)
