"""Gram matrices of the inputs of trained linear layers: what lets shards be composed layer by layer (tangent.md §6).

Source: RegMean (Jin et al., ICLR 2023), here in tangent space, where the inputs do not depend on Δw.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from taft_ray.tangent.rule import LinearInput


class GramLayer(NamedTuple):
    """Rows ``start:stop`` of ``weight``, with ``bias`` where it is trained: what one Gram matrix stands for."""

    weight: str
    bias: str | None
    start: int
    stop: int

    def __str__(self) -> str:
        return f"{self.weight}|{self.bias or ''}|{self.start}:{self.stop}"

    @classmethod
    def parse(cls, text: str) -> GramLayer:
        weight, bias, rows = text.split("|")
        start, stop = rows.split(":")
        return cls(weight, bias or None, int(start), int(stop))


def gram_matrices(inputs: Iterable[LinearInput]) -> dict[str, Tensor]:
    """A = Σ a·aᵀ over pictures and rows, float64, (D_in, D_in), or (D_in + 1,)² with a constant 1 for a trained bias.

    Guarantees: symmetric to the last bit; keys are ``str(GramLayer)``.
    """
    out = {}
    for layer in inputs:
        a = layer.inputs.reshape(-1, layer.inputs.shape[-1]).double()
        if layer.bias is not None:
            a = torch.cat([a, a.new_ones(len(a), 1)], dim=1)
        upper = torch.triu(a.T @ a)
        out[str(GramLayer(layer.weight, layer.bias, layer.start, layer.stop))] = upper + torch.triu(upper, 1).T
    return out
