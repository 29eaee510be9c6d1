"""The gradient of each picture, or of each unit of several, in factors: norms and weighted sums without forming it (ours).

A picture's gradient is g = Jᵀr with the residual r of its K outputs. At a place where trained matrices enter, with
inputs a_ρ and b_ρ, the derivative of r·(J·Δ) with respect to the place's output at row ρ:

    g = Σ_ρ b_ρ ⊗ (a_ρ, 1)          ‖g‖² = Σ_ρρ' (b_ρ·b_ρ') (a_ρ·a_ρ' + 1)

Heads and places add. A scale or shift adds ‖Σ of its uses‖². The rows of a unit are those of all its pictures.
Legend: B pictures, U units, S pictures per unit (B = U·S), K classes, R rows, H heads, W values of all b of a picture.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from taft_ray.errors import UnsupportedModel
from taft_ray.tangent.trained import Entry

BLOCK = 256  # rows that are added up in float32, or units if those have one row; the sum is rounded to an integer
LARGEST = 1e15  # of inputs and derivatives: beyond it a gradient counts as not finite
CANCELLING = 2.0**16  # times its gradient's norm: all rows' norms of a unit together count as at most that
ROUNDING = 2.0**-30  # relative to the squares of rows' norms: more than float64 sums of products are wrong by
TILE = 1 << 18  # values of a matrix whose sum is gathered at a time, which fit into a cache


class Matrix(NamedTuple):
    """A place where trained matrices enter, or several that share them: their rows follow each other."""

    entry: Entry
    sites: tuple[int, ...]
    rows: int
    out: int
    start: int  # of its values in W
    stop: int


class Vector(NamedTuple):
    """Values ``first:last`` of a trained parameter that is added or multiplied with. sites: where it is a bias."""

    name: str
    first: int
    last: int
    sites: tuple[int, ...]
    start: int
    stop: int


class Layout:
    """How the derivatives at all places of a network lie in W. UnsupportedModel where places share a part of a matrix.

    sites: each site's entry and the shape (R, H, out) of its output. vectors: the size of each trained scale or shift.
    """

    def __init__(self, sites: Sequence[tuple[Entry, tuple[int, int, int]]], vectors: Mapping[str, int]) -> None:
        together: dict[Entry, list[int]] = {}
        for number, (entry, _) in enumerate(sites):
            together.setdefault(entry, []).append(number)
        _check_apart(together, vectors)
        self.matrices: list[Matrix] = []
        self.vectors: list[Vector] = []
        at = 0
        for entry, numbers in together.items():
            if entry.weight is None:
                continue
            rows, out = sum(sites[number][1][0] for number in numbers), sites[numbers[0]][1][2]
            size = rows * entry.heads * out
            self.matrices.append(Matrix(entry, tuple(numbers), rows, out, at, at + size))
            at += size
        for entry, numbers in together.items():
            if entry.weight is None and entry.bias is not None:
                size = entry.stop - entry.start
                self.vectors.append(Vector(entry.bias, entry.start, entry.stop, tuple(numbers), at, at + size))
                at += size
        for name, size in vectors.items():
            self.vectors.append(Vector(name, 0, size, (), at, at + size))
            at += size
        self.width = at
        self.site_rows = max((shape[0] for _, shape in sites), default=1)  # most that one site sees of a picture

    @property
    def rows(self) -> int:
        """Most rows of a picture at a matrix; a bias alone has one, the sum of its uses."""
        return max((matrix.rows for matrix in self.matrices), default=1)

    def inputs(self, sites: Sequence[Tensor]) -> list[Tensor]:
        """Each matrix's inputs (B, R, H, in), from those of the sites."""
        return [_joined([sites[number] for number in matrix.sites], 1) for matrix in self.matrices]

    def flat(self, sites: Sequence[Tensor], vectors: Mapping[str, Tensor]) -> Tensor:
        """Derivatives at the sites (…, R, H, out) and by the vectors (…, D) as (…, W)."""
        parts = [_joined([sites[number] for number in matrix.sites], -3).flatten(-3) for matrix in self.matrices]
        for vector in self.vectors:
            of_sites = [sites[number].sum(-3).flatten(-2) for number in vector.sites]
            parts.append(sum(of_sites[1:], of_sites[0]) if of_sites else vectors[vector.name])
        return torch.cat(parts, -1)

    def products(self, delta: Mapping[str, Tensor], inputs: Sequence[Tensor]) -> Tensor:
        """Values that Δw adds at each place, (B, W): J·Δw is their product with the derivatives of the outputs."""
        like = inputs[0] if inputs else next(iter(delta.values()))
        out = like.new_zeros(len(inputs[0]) if inputs else 1, self.width)
        for matrix, values in zip(self.matrices, inputs, strict=True):
            place = out[:, matrix.start : matrix.stop].unflatten(1, (matrix.rows, matrix.entry.heads, matrix.out))
            matrix.entry.add_product(delta, values, place)
        for vector in self.vectors:
            out[:, vector.start : vector.stop] = delta[vector.name].flatten()[vector.first : vector.last]
        return out


def _joined(tensors: Sequence[Tensor], axis: int) -> Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat(list(tensors), axis)


def _check_apart(entries: Mapping[Entry, object], vectors: Mapping[str, int]) -> None:
    """Norms of places add only if no two share a parameter's values."""
    taken: dict[str, list[tuple[int, int]]] = {name: [(0, size)] for name, size in vectors.items()}
    for entry in entries:
        for name in (entry.weight, entry.bias):
            if name is None:
                continue
            ranges = taken.setdefault(name, [])
            if any(entry.start < stop and start < entry.stop for start, stop in ranges):
                raise UnsupportedModel(f"two places use rows {entry.start}:{entry.stop} of {name} in different ways")
            ranges.append((entry.start, entry.stop))


class Inputs:
    """The inputs of every matrix for some pictures, ``size`` consecutive ones being a unit. A picture that has one which is not finite,
    or too large, has zeros instead, and is not ``fine`` (B,)."""

    def __init__(self, layout: Layout, tensors: Sequence[Tensor], size: int, count: int, device: torch.device) -> None:
        self.layout, self.size, self.count = layout, size, count
        self.fine = torch.ones(count, dtype=torch.bool, device=device)
        for values in tensors:
            self.fine &= values.abs().flatten(1).amax(1) <= LARGEST
        if not bool(self.fine.all()):
            tensors = [values.masked_fill(~self.fine[:, None, None, None], 0.0) for values in tensors]
        # in memory of its own order: the last bits of other blocks' sums must not depend on whether a picture here was not fine
        self.tensors = [values.contiguous() for values in tensors]

    @cached_property
    def products(self) -> list[Tensor]:
        """Every matrix's a_ρ·a_ρ', and 1 more with a bias: (U, H, S·R, S·R), float64."""
        return [
            _products(values.unflatten(0, (-1, self.size)).flatten(1, 2)) + (matrix.entry.bias is not None)
            for matrix, values in zip(self.layout.matrices, self.tensors, strict=True)
        ]


def _products(rows: Tensor) -> Tensor:
    """Scalar products of rows (U, ρ, H, D) with each other, (U, H, ρ, ρ) in float64."""
    if rows.shape[1] == 1:
        return _lengths(rows[:, 0]).square()[:, :, None, None]
    heads = rows.transpose(1, 2).double()
    return heads @ heads.mT


def _lengths(vectors: Tensor) -> Tensor:
    """Norms over the last axis, in float64. The norm's own ``dtype`` gives the same bits in four times the time."""
    return torch.linalg.vector_norm(vectors.double(), dim=-1)


class UnitGradients:
    """Gradients of U units from ``inputs`` of their pictures and ``back`` (B, W), the derivatives of r·(J·Δ) at all places."""

    def __init__(self, inputs: Inputs, back: Tensor) -> None:
        self.inputs, self.back, self.size = inputs, back, inputs.size
        self.layout = inputs.layout

    def __len__(self) -> int:
        return len(self.back) // self.size

    @property
    def single(self) -> bool:
        """Whether each is one row at every place, so that nothing can cancel within it."""
        return self.size == 1 and self.layout.rows == 1

    @property
    def fine(self) -> Tensor:
        """(U,) bool: all of a unit's factors are finite, and not too large."""
        high, low = self.back.amax(1), self.back.amin(1)
        picture = self.inputs.fine & (high <= LARGEST) & (low >= -LARGEST)  # false for NaN
        return picture.view(-1, self.size).all(1)

    def norms(self) -> Tensor:
        """(U,) float64: ‖g‖ of each unit, or a little more; NaN where a factor is not finite, or too large.

        Guarantees: at most `CANCELLING` times smaller than the norms of all rows together.
        """
        return self._norms_of_rows() if self.single else self._norms_of_sums()

    def _norms_of_rows(self) -> Tensor:
        """Norms of units with one row at every place; their factors are looked at only once."""
        square = self.back.new_zeros(len(self), dtype=torch.float64)
        fine = self.inputs.fine.clone()
        for matrix, inputs in zip(self.layout.matrices, self.inputs.products, strict=True):
            squares = _products(self._of_units(matrix))
            fine &= (squares <= LARGEST**2).flatten(1).all(1)
            square += (squares * inputs).sum((1, 2, 3))
        if self.layout.vectors:
            vectors = self.back[:, self.layout.vectors[0].start :]
            squares = _lengths(vectors).square()
            fine &= squares <= LARGEST**2
            square += squares
        return torch.where(fine, square.sqrt(), math.nan)

    def _norms_of_sums(self) -> Tensor:
        square = self.back.new_zeros(len(self), dtype=torch.float64)
        apart = square.clone()  # squares of what the norms of a place's rows sum to
        for matrix, inputs in zip(self.layout.matrices, self.inputs.products, strict=True):
            products = _products(self._of_units(matrix)) * inputs
            square += products.sum((1, 2, 3))
            apart += products.diagonal(dim1=2, dim2=3).clamp(min=0).sqrt().sum(2).square().sum(1)
        for vector in self.layout.vectors:
            uses = self.back[:, vector.start : vector.stop].view(len(self), self.size, -1)
            square += _lengths(uses.sum(1, dtype=torch.float64)).square()
            apart += _lengths(uses).sum(1).square()
        norms = (square + ROUNDING * apart).clamp(min=0).sqrt().maximum(apart.sqrt() / CANCELLING)
        return torch.where(self.fine, norms, math.nan)

    def _of_units(self, matrix: Matrix) -> Tensor:
        """(U, S·R, H, out)."""
        cut = self.back[:, matrix.start : matrix.stop]
        return cut.reshape(len(self), self.size * matrix.rows, matrix.entry.heads, matrix.out)

    def add_rounded(self, total: Mapping[str, Tensor], weights: Tensor) -> None:
        """Add Σ weights·g of the units to ``total``, float64; weights (U,), zero where a unit's norm is NaN. ``back`` is used up.

        Sums of as many units as have `BLOCK` rows are rounded to integers, so that the total's sum is exact in any order.
        """
        dtype = self.back.dtype if self.single else torch.float64
        factors = weights.repeat_interleave(self.size).to(dtype)[:, None]
        scaled = self.back.mul_(factors) if self.back.dtype == dtype else self.back * factors
        left_out = weights == 0
        if bool(left_out.any()):  # zero times NaN would be NaN
            scaled.masked_fill_(left_out.repeat_interleave(self.size)[:, None], 0.0)
        step = max(1, BLOCK // (self.size * self.layout.rows)) * self.size
        parts = [slice(start, start + step) for start in range(0, len(scaled), step)]
        for matrix, inputs in zip(self.layout.matrices, self.inputs.tensors, strict=True):
            self._add_matrix(total, matrix, inputs.to(dtype), scaled, parts)
        sums = torch.stack([scaled[part].sum(0) for part in parts])
        for matrix in self.layout.matrices:
            shifts = matrix.entry.shifts(total)
            if shifts is not None:
                cut = sums[:, matrix.start : matrix.stop].view(len(parts), matrix.rows, *shifts.shape)
                shifts += cut.sum(1).round().sum(0, dtype=torch.float64)
        for vector in self.layout.vectors:
            values = sums[:, vector.start : vector.stop].round().sum(0, dtype=torch.float64)
            _values_of(total[vector.name], vector).add_(values)

    def _add_matrix(
        self, total: Mapping[str, Tensor], matrix: Matrix, inputs: Tensor, scaled: Tensor, parts: list[slice]
    ) -> None:
        back = scaled[:, matrix.start : matrix.stop].view(len(scaled), matrix.rows, matrix.entry.heads, matrix.out)
        left, right = (inputs, back) if matrix.entry.transposed else (back, inputs)
        target = stored(matrix.entry, total)
        heads, height, width = target.shape
        if heads > 1:  # whole heads at a time: their matrices are small
            some, tile = max(1, min(heads, TILE // (height * width))), height
        else:
            some, tile = 1, max(1, min(height, TILE // width))
        room = scaled.new_empty(some * tile * width)
        for head in range(0, heads, some):
            for low in range(0, height, tile):
                into = target[head : head + some, low : low + tile]
                buffer = room[: into.numel()].view(into.shape)
                of_left = left[:, :, head : head + some, low : low + tile]
                of_right = right[:, :, head : head + some]
                for part in parts:
                    product(of_left[part], of_right[part], buffer)
                    into += buffer.round_()

    def write(self, unit: int, gradient: Mapping[str, Tensor], *, first: bool) -> None:
        """The gradient of one unit itself, into ``gradient``, or added to it: parameters that have no place are left as they are."""
        part = slice(unit * self.size, (unit + 1) * self.size)
        back, beta = self.back[part], 0.0 if first else 1.0
        for matrix, inputs in zip(self.layout.matrices, self.inputs.tensors, strict=True):
            outputs = back[:, matrix.start : matrix.stop].view(self.size, matrix.rows, matrix.entry.heads, matrix.out)
            left, right = (inputs[part], outputs) if matrix.entry.transposed else (outputs, inputs[part])
            product(left, right, stored(matrix.entry, gradient), beta)
            shifts = matrix.entry.shifts(gradient)
            if shifts is not None:
                torch.add(shifts * beta if beta else shifts.new_zeros(()), outputs.sum((0, 1)), out=shifts)
        for vector in self.layout.vectors:
            values = _values_of(gradient[vector.name], vector)
            values.copy_(back[:, vector.start : vector.stop].sum(0) + (values if beta else 0.0))


def stored(entry: Entry, parameters: Mapping[str, Tensor]) -> Tensor:
    """The matrices (H, height, width) as the parameter has them, whether the place uses them transposed or not."""
    assert entry.weight is not None
    return parameters[entry.weight][entry.start : entry.stop].unflatten(0, (entry.heads, -1))


def product(left: Tensor, right: Tensor, out: Tensor, beta: float = 0.0) -> None:
    """Σ over pictures and rows of left (B, R, H, height) ⊗ right (B, R, H, width), into ``out`` (H, height, width)."""
    left, right = left.flatten(0, 1), right.flatten(0, 1)
    if out.shape[0] == 1:
        out[0].addmm_(left[:, 0].mT, right[:, 0], beta=beta)
    else:
        out.baddbmm_(left.permute(1, 2, 0), right.transpose(0, 1), beta=beta)


def _values_of(parameter: Tensor, vector: Vector) -> Tensor:
    return parameter.view(-1)[vector.first : vector.last]
