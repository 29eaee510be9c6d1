"""How Δw enters a tangent pass: every rule asks here for its trained layers, so that a pass can also be probed.

Legend: B batch, K classes, H heads.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from taft_ray.errors import UnsupportedModel
from taft_ray.tangent.elementwise import activated_product


def linear_tangent(
    delta: Mapping[str, Tensor],
    weight: str,
    bias: str,
    x: Tensor,
    x_dot: Tensor | None,
    base: Tensor,
    activation: nn.Module | None = None,
) -> Tensor | None:
    """ΔW x + Δb + W ẋ over the last axis (eq. 11), with ``base`` W and x_dot None for zero; None when all of it is zero.

    activation: an elementwise φ in front of the layer, for ΔW φ(x) instead: φ(x) is computed again for the gradient, and not kept.
    """
    if isinstance(delta, Probes):
        fresh = delta.linear(x if activation is None else activation(x), weight, bias)
    elif weight in delta:
        rows, shift = x.flatten(0, -2), delta.get(bias)
        if activation is None:
            fresh = F.linear(rows, delta[weight], shift)
        else:
            fresh = activated_product(activation, rows, delta[weight], shift)
        if x_dot is not None:  # added into the memory of the first product: of many blocks these are the large arrays
            return fresh.addmm_(x_dot.flatten(0, -2), base.T).unflatten(0, x.shape[:-1])
        return fresh.unflatten(0, x.shape[:-1])
    else:
        d_bias = delta.get(bias)
        fresh = None if d_bias is None else d_bias.expand(*x.shape[:-1], -1)
    if x_dot is None:
        return fresh
    through = x_dot @ base.T
    return through if fresh is None else through + fresh


def trained_vector(delta: Mapping[str, Tensor], name: str, like: Tensor) -> Tensor | None:
    """A trained scale, shift or token, as something that goes with ``like`` (B, …, D); None when it is not trained."""
    if isinstance(delta, Probes):
        return delta.vector(name, like)
    return delta.get(name)


class Entry(NamedTuple):
    """Where a place of the network takes its matrices and shifts from: rows ``start:stop`` of two parameters, cut into H heads.

    A name is None where that parameter is not trained. ``transposed``: the place uses ΔWᵀ (the keys of a read-out attention).
    """

    weight: str | None
    bias: str | None
    start: int
    stop: int
    heads: int
    transposed: bool

    def matrices(self, delta: Mapping[str, Tensor]) -> Tensor | None:
        """(H, out, in)."""
        if self.weight is None:
            return None
        cut = delta[self.weight][self.start : self.stop].unflatten(0, (self.heads, -1))
        return cut.mT if self.transposed else cut

    def shifts(self, delta: Mapping[str, Tensor]) -> Tensor | None:
        """(H, out)."""
        return None if self.bias is None else delta[self.bias][self.start : self.stop].unflatten(0, (self.heads, -1))

    def add_product(self, delta: Mapping[str, Tensor], inputs: Tensor, out: Tensor) -> None:
        """Add M·input + shift to ``out`` (B, rows, H, out), for inputs (B, rows, H, in)."""
        matrices, shifts = self.matrices(delta), self.shifts(delta)
        if matrices is not None:
            rows = inputs.flatten(0, 1).transpose(0, 1)
            product = rows[0] @ matrices[0].mT if self.heads == 1 else torch.bmm(rows, matrices.mT).transpose(0, 1)
            out += product.reshape(out.shape)
        if shifts is not None:
            out += shifts


class Site(NamedTuple):
    """A place where trained matrices enter: to ``probe``, zeros (B, rows, H, out), was added M·input + shift, of its ``entry``."""

    entry: Entry
    inputs: Tensor  # (B, rows, H, in)
    probe: Tensor


class Probes(Mapping[str, Tensor]):
    """Stands in for Δw in a tangent pass of a batch: zeros everywhere, recorded so that derivatives can be taken picture by picture.

    at: probes have the values that this Δw gives instead, so that the pass's output is J·Δw.

    After ``tangent(prepared, probes)`` picture b's row of the Jacobian is made of derivatives of its outputs. They are those with
    respect to its own ``sites[i].probe[b]`` and ``vectors[name][b]``. A matrix's row is Σ probe-derivative ⊗ input.
    """

    def __init__(self, like: Mapping[str, Tensor], batch: int, *, at: Mapping[str, Tensor] | None = None) -> None:
        self.at = at
        self.shapes = {name: value.shape for name, value in like.items()}
        self.batch = batch
        self.options = {"dtype": next(iter(like.values())).dtype, "device": next(iter(like.values())).device}
        self.sites: list[Site] = []
        self.vectors: dict[str, Tensor] = {}  # (B, D)

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.shapes:
            raise KeyError(name)
        raise UnsupportedModel(f"the Jacobian's rows cannot be taken apart: {name} is in a module without a rule")

    def __contains__(self, name: object) -> bool:
        return name in self.shapes

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)

    def _zeros(self, *shape: int) -> Tensor:
        return torch.zeros(shape, **self.options, requires_grad=True)  # type: ignore[arg-type]  # dtype and device

    def linear(self, x: Tensor, weight: str, bias: str) -> Tensor | None:
        """A site of a plain layer: ``x`` (B, in) or (B, rows, in)."""
        shape = self.shapes.get(weight) or self.shapes.get(bias)
        if shape is None:
            return None
        inputs = x.reshape(len(x), -1, 1, x.shape[-1])
        return self.site(inputs, weight, bias, 0, shape[0]).reshape(*x.shape[:-1], shape[0])

    def site(
        self, inputs: Tensor, weight: str, bias: str | None, start: int, stop: int, *, transposed: bool = False
    ) -> Tensor:
        """A site with a matrix a head: ``inputs`` (B, rows, H, in) -> zeros (B, rows, H, out)."""
        heads = inputs.shape[2]
        known = [name if name in self.shapes else None for name in (weight, bias)]
        entry = Entry(known[0], known[1], start, stop, heads, transposed)
        out = self.shapes[weight][1] if transposed else (stop - start) // heads
        probe = self._zeros(*inputs.shape[:-1], out)
        if self.at is not None:
            with torch.no_grad():
                entry.add_product(self.at, inputs, probe)
        self.sites.append(Site(entry, inputs, probe))
        return probe

    def vector(self, name: str, like: Tensor) -> Tensor | None:
        if name not in self.shapes:
            return None
        if name not in self.vectors:
            probe = self.vectors[name] = self._zeros(self.batch, self.shapes[name].numel())
            if self.at is not None:
                with torch.no_grad():
                    probe += self.at[name].flatten()
        return self.vectors[name].reshape(self.batch, *(1,) * (like.ndim - 2), -1)
