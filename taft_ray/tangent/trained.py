"""How Δw enters a tangent pass: every rule asks here for its trained layers, so that a pass can also be probed.

Legend: B batch, K classes, H heads.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from taft_ray.errors import UnsupportedModel


def trained_linear(delta: Mapping[str, Tensor], weight: str, bias: str, x: Tensor) -> Tensor | None:
    """ΔW x + Δb over the last axis of ``x`` (eq. 11's new terms); None when neither is trained."""
    if isinstance(delta, Probes):
        return delta.linear(x, delta.shapes.get(weight), delta.shapes.get(bias))
    d_weight, d_bias = delta.get(weight), delta.get(bias)
    out = None if d_weight is None else x @ d_weight.T
    if d_bias is not None:
        out = d_bias.expand(*x.shape[:-1], -1) if out is None else out + d_bias
    return out


def trained_vector(delta: Mapping[str, Tensor], name: str, like: Tensor) -> Tensor | None:
    """A trained scale, shift or token, as something that goes with ``like`` (B, …, D); None when it is not trained."""
    if isinstance(delta, Probes):
        return delta.vector(name, like)
    return delta.get(name)


class Site(NamedTuple):
    """A place where a trained matrix and bias enter: to ``probe``, zeros (B, rows, H, out), was added ΔW·input + Δb."""

    inputs: Tensor | None  # (B, rows, H, in): None where only the bias is trained
    biased: bool
    probe: Tensor


class Probes(Mapping[str, Tensor]):
    """Stands in for Δw in a tangent pass of a batch: zeros everywhere, recorded so that derivatives can be taken picture by picture.

    After ``tangent(prepared, probes)`` the derivative of picture b's outputs with respect to its own ``sites[i].probe[b]``
    and ``vectors[name][b]`` is what its row of the Jacobian is made of: a matrix's row is Σ probe-derivative ⊗ input.
    """

    def __init__(self, like: Mapping[str, Tensor], batch: int) -> None:
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

    def linear(self, x: Tensor, weight: torch.Size | None, bias: torch.Size | None) -> Tensor | None:
        """A site of a plain layer: ``x`` (B, in) or (B, rows, in)."""
        if weight is None and bias is None:
            return None
        out = (weight or bias)[0]  # type: ignore[index]  # one of them is there
        inputs = x.reshape(len(x), -1, 1, x.shape[-1])
        return self.heads(inputs, out, weighted=weight is not None, biased=bias is not None).reshape(*x.shape[:-1], out)

    def heads(self, inputs: Tensor, out: int, *, weighted: bool, biased: bool) -> Tensor:
        """A site with a matrix a head: ``inputs`` (B, rows, H, in) -> zeros (B, rows, H, out)."""
        probe = self._zeros(*inputs.shape[:-1], out)
        self.sites.append(Site(inputs if weighted else None, biased, probe))
        return probe

    def vector(self, name: str, like: Tensor) -> Tensor | None:
        if name not in self.shapes:
            return None
        if name not in self.vectors:
            self.vectors[name] = self._zeros(self.batch, self.shapes[name].numel())
        return self.vectors[name].reshape(self.batch, *(1,) * (like.ndim - 2), -1)
