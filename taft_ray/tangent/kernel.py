"""The tangent kernel K = J·Jᵀ between pictures, without forming J (ours).

A row of J is made of outer products: for a trained matrix, (derivative at the layer's output) ⊗ (the layer's input). So

    J(x)_k · J(x')_k' = Σ_layers (g_k(x)·g_k'(x')) (a(x)·a(x')) + Σ_vectors g_k(x)·g_k'(x')

and nK·(nK)·width multiply-adds make what would take nK·(nK)·parameters. Legend: B pictures, K classes, R rows, H heads.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from taft_ray.errors import UnsupportedModel
from taft_ray.tangent.model import TangentModel
from taft_ray.tangent.prepared import Prepared
from taft_ray.tangent.trained import Probes

MOST_ROWS = 2  # tokens that a trained layer may see: beyond the class token's the products grow with their square


class _Factor(NamedTuple):
    """Of one trained matrix: ``inputs`` (B, R, H, in) or None, whether a bias goes with it, ``outputs`` (B, K, R, H, out)."""

    inputs: Tensor | None
    biased: bool
    outputs: Tensor


class JacobianRows:
    """The rows of J of a batch of pictures, in factors. UnsupportedModel where they do not come apart cheaply."""

    def __init__(self, tm: TangentModel, prepared: Prepared) -> None:
        self.shape = prepared.primal.shape  # (B, K)
        with torch.enable_grad():
            probes = Probes(tm.zero_delta(), len(prepared))
            out = tm.tangent(prepared, probes)
            rows = max((site.probe.shape[1] for site in probes.sites), default=1)
            if rows > MOST_ROWS:
                raise UnsupportedModel(f"a trained layer sees {rows} tokens of a picture, more than {MOST_ROWS}")
            leaves = [site.probe for site in probes.sites] + list(probes.vectors.values())
            grads = self._derivatives(out, leaves)
        sites = len(probes.sites)
        self.factors = [
            _Factor(site.inputs, site.biased, grad) for site, grad in zip(probes.sites, grads[:sites], strict=True)
        ]
        self.vectors = grads[sites:]

    def _derivatives(self, out: Tensor, leaves: list[Tensor]) -> list[Tensor]:
        """Of each class's output with respect to each picture's own probe: (B, K, …) for each leaf (B, …)."""
        columns = []
        for one in out.sum(0):  # batched gradients copy the tokens once a class, and are slower
            grads = torch.autograd.grad(one, leaves, retain_graph=True, allow_unused=True)
            pairs = zip(leaves, grads, strict=True)
            columns.append([torch.zeros_like(leaf) if grad is None else grad for leaf, grad in pairs])
        return [torch.stack(column, dim=1) for column in zip(*columns, strict=True)]

    def gram(self) -> Tensor:
        """J·Jᵀ, (B·K, B·K) as float64; picture by picture, its classes next to each other."""
        count, classes = self.shape
        like = self.factors[0].outputs if self.factors else self.vectors[0]
        total = like.new_zeros(count * classes, count * classes)
        blocks = total.view(count, classes, count, classes)
        for factor in self.factors:
            rows, heads = factor.outputs.shape[2:4]
            for head in range(heads):
                for first in range(rows):
                    for second in range(rows):
                        left = factor.outputs[:, :, first, head].flatten(0, 1)
                        right = factor.outputs[:, :, second, head].flatten(0, 1)
                        scale = self._inputs(factor, first, second, head)
                        blocks.addcmul_((left @ right.T).view_as(blocks), scale[:, None, :, None])
        for vector in self.vectors:
            flat = vector.flatten(0, 1).flatten(1)
            total.addmm_(flat, flat.T)
        return total.double()

    @staticmethod
    def _inputs(factor: _Factor, first: int, second: int, head: int) -> Tensor:
        """(B, B): what the two rows' inputs have in common, and 1 for a bias."""
        count = len(factor.outputs)
        scale = factor.outputs.new_zeros(count, count)
        if factor.inputs is not None:
            scale = factor.inputs[:, first, head] @ factor.inputs[:, second, head].T
        return scale + 1 if factor.biased else scale
