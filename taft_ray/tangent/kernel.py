"""The Jacobian of a batch of pictures in factors, and the tangent kernel K = J·Jᵀ, without forming J (ours).

A row of J is made of outer products: for a trained matrix, (derivative at the layer's output) ⊗ (the layer's input). So

    J(x)_k · J(x')_k' = Σ_layers (g_k(x)·g_k'(x')) (a(x)·a(x')) + Σ_vectors g_k(x)·g_k'(x')

and nK·(nK)·width multiply-adds make what would take nK·(nK)·parameters; J·Δ and Jᵀ·u never look at a token.
Legend: B pictures, K classes, R rows, H heads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from taft_ray.errors import UnsupportedModel
from taft_ray.tangent.delta import Delta
from taft_ray.tangent.model import TangentModel
from taft_ray.tangent.prepared import Prepared, concatenate
from taft_ray.tangent.trained import Entry, Probes

MOST_ROWS = 2  # tokens that a trained layer may see: beyond the class token's the products grow with their square
PASS = 16  # pictures a pass through the network, always, so that a picture's bits do not depend on those it is with
GPU_PASS, GPU_OUTPUTS = (
    128,
    2048,
)  # the same on a GPU, where a small pass takes as long as a large one: pictures, and times classes


class Factor(NamedTuple):
    """One place where trained matrices enter: its ``inputs`` (B, R, H, in) and its ``outputs`` (B, K, R, H, out).

    The ``outputs`` are each class's derivative with respect to what the place puts out.
    """

    entry: Entry
    inputs: Tensor
    outputs: Tensor


class JacobianRows:
    """The rows of J of some pictures, in factors. Made by `jacobian_rows`.

    Guarantees: `jvp` and `vjp` are those of the tangent model, up to rounding.
    """

    def __init__(self, zero: Delta, shape: torch.Size, factors: list[Factor], vectors: Mapping[str, Tensor]) -> None:
        self._zero, self.shape = zero, shape  # (B, K)
        self.factors, self.vectors = factors, vectors  # vectors: (B, K, D), a class's derivative by a scale or shift

    @property
    def device(self) -> torch.device:
        return next(iter(self._zero.values())).device

    def jvp(self, delta: Mapping[str, Tensor]) -> Tensor:
        """J·Δ, (B, K)."""
        out = next(iter(delta.values())).new_zeros(self.shape)
        for entry, inputs, outputs in self.factors:
            matrices, shifts = entry.matrices(delta), entry.shifts(delta)
            if matrices is not None:
                out += torch.einsum("bkrho,brho->bk", outputs, torch.einsum("brhi,hoi->brho", inputs, matrices))
            if shifts is not None:
                out += torch.einsum("bkrho,ho->bk", outputs, shifts)
        for name, outputs in self.vectors.items():
            out += outputs @ delta[name].flatten()
        return out

    def vjp(self, cotangent: Tensor) -> Delta:
        """Jᵀ·cotangent, with cotangent (B, K)."""
        total = {name: torch.zeros_like(value) for name, value in self._zero.items()}
        for entry, inputs, outputs in self.factors:
            back = torch.einsum("bk,bkrho->brho", cotangent, outputs)
            matrices, shifts = (
                entry.matrices(total),
                entry.shifts(total),
            )  # views: what is added there is added to total
            if matrices is not None:
                matrices += torch.einsum("brho,brhi->hoi", back, inputs)
            if shifts is not None:
                shifts += back.sum((0, 1))
        for name, outputs in self.vectors.items():
            total[name] += torch.einsum("bk,bkd->d", cotangent, outputs).view_as(total[name])
        return Delta(total)

    def gram(self) -> Tensor:
        """J·Jᵀ, (B·K, B·K) as float64; picture by picture, its classes next to each other."""
        count, classes = self.shape
        like = next(iter(self._zero.values()))
        total = like.new_zeros(count * classes, count * classes)
        blocks = total.view(count, classes, count, classes)
        for entry, inputs, outputs in self.factors:
            rows, heads = outputs.shape[2:4]
            for head in range(heads):
                for first in range(rows):
                    for second in range(rows):
                        left = outputs[:, :, first, head].flatten(0, 1)
                        right = outputs[:, :, second, head].flatten(0, 1)
                        shared = like.new_zeros(count, count)  # what two rows' inputs have in common, and 1 for a bias
                        if entry.weight is not None:
                            shared = inputs[:, first, head] @ inputs[:, second, head].T
                        if entry.bias is not None:
                            shared = shared + 1
                        blocks.addcmul_((left @ right.T).view_as(blocks), shared[:, None, :, None])
        for outputs in self.vectors.values():
            flat = outputs.flatten(0, 1)
            total.addmm_(flat, flat.T)
        return total.double()


def jacobian_rows(tm: TangentModel, parts: Sequence[Prepared]) -> list[JacobianRows]:
    """The rows of each part's pictures (none of them empty). UnsupportedModel where they do not come apart cheaply.

    Guarantees: a part's rows are the same, bit for bit, whatever other parts there are.
    """
    pictures = concatenate(list(parts))
    size = pass_size(tm)
    if size > PASS:
        _probed(tm, pictures[:1])  # refuses with little memory what many pictures would need much for
    found = [_pass(tm, pictures, start, size) for start in range(0, len(pictures), size)]
    sizes = [len(part) for part in parts]
    factors: list[list[Factor]] = [[] for _ in parts]
    for place, factor in enumerate(found[0][0]):
        inputs, outputs = (
            _cut([getattr(one[place], what) for one, _ in found], sizes) for what in ("inputs", "outputs")
        )
        for number in range(len(parts)):
            factors[number].append(Factor(factor.entry, inputs[number], outputs[number]))
    vectors = {name: _cut([one[name] for _, one in found], sizes) for name in found[0][1]}
    return [
        JacobianRows(
            tm.zero_delta(), part.primal.shape, factors[number], {name: cut[number] for name, cut in vectors.items()}
        )
        for number, part in enumerate(parts)
    ]


def pass_size(tm: TangentModel) -> int:
    """Pictures whose derivatives are taken at a time."""
    return min(GPU_PASS, max(PASS, GPU_OUTPUTS // tm.num_classes)) if tm.device.type == "cuda" else PASS


def _cut(passes: list[Tensor], sizes: list[int]) -> list[Tensor]:
    """The passes' results without the padding, cut into a tensor per part.

    Each has memory of its own, as the bits of a product may depend on where it starts.
    """
    whole = torch.cat(passes)[: sum(sizes)]
    return [part.clone() for part in whole.split(sizes)]


def _pass(tm: TangentModel, pictures: Prepared, start: int, size: int) -> tuple[list[Factor], dict[str, Tensor]]:
    """The factors and vectors of ``size`` pictures from ``start`` on, the last one repeated."""
    index = torch.arange(start, start + size, device=pictures.primal.device).clamp_(max=len(pictures) - 1)
    with torch.enable_grad():
        out, probes = _probed(tm, pictures[index])
        grads = _derivatives(out, [site.probe for site in probes.sites] + list(probes.vectors.values()))
    factors = [
        Factor(site.entry, site.inputs, outputs)
        for site, outputs in zip(probes.sites, grads, strict=False)  # the vectors' follow
    ]
    return factors, dict(zip(probes.vectors, grads[len(factors) :], strict=True))


def _probed(tm: TangentModel, pictures: Prepared) -> tuple[Tensor, Probes]:
    """The tangent (B, K) of a probe at every place of every trained layer. UnsupportedModel where there are too many."""
    probes = Probes(tm.zero_delta(), len(pictures))
    out = tm.tangent(pictures, probes)
    rows = max((site.probe.shape[1] for site in probes.sites), default=1)
    if rows > MOST_ROWS:
        raise UnsupportedModel(f"a trained layer sees {rows} tokens of a picture, more than {MOST_ROWS}")
    return out, probes


def _derivatives(out: Tensor, leaves: list[Tensor]) -> list[Tensor]:
    """The derivatives of each class's output with respect to each picture's own probe: (B, K, …) for each leaf (B, …)."""
    columns = []
    for one in out.sum(0):  # batched gradients copy the tokens once a class, and are slower
        grads = torch.autograd.grad(one, leaves, retain_graph=True, allow_unused=True)
        pairs = zip(leaves, grads, strict=True)
        columns.append([torch.zeros_like(leaf) if grad is None else grad for leaf, grad in pairs])
    return [torch.stack(column, dim=1) for column in zip(*columns, strict=True)]
