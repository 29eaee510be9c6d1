"""Joint composition: every trained layer of the last block at once, by the Gram matrix of their joined inputs (ours).

A trained layer l adds g_l(x)·ΔW_l a_l(x) to the outputs, (K, out)·(out, in)·(in,). In the last block behind a class token the
derivative g_l depends little on the picture x. DeiT-Tiny on Sign-Digits shows it by the mean M_l's share of g_l's squares. The
share is 96 to 100% for the values, both projections out of the block's branches and the head. It is 74% for fc1 and 63% for the
queries. With M_l in place of g_l, f_lin − f_w is linear in the joined inputs a = (a_1, a_2, …). So few numbers are then to be
found that all shards' pictures can decide on them together:

    min over C of  Σ |C·a(x) − y(x)|² + λ n K |C|²,      ΔW_l = s_l M_l⁺ C_l,  a_l scaled by s_l = |M_l|/√K

where y(x) is what the layers of picture x's own shard add to its outputs, with the exact derivatives. A shard's part in this is
Σ a·aᵀ, Σ y·aᵀ, Σ g_l and its number of pictures: exact sums, which it can leave. Unlike the Gram composition, layer by layer, one
layer makes up for what another cannot do. Where the joined inputs would be more than `MOST`, wide layers' are projected at random.

Legend: n samples, K classes, S joined inputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from taft_ray.errors import DeltaMismatch, UnsupportedModel
from taft_ray.sums.packed import lower_triangle, pack
from taft_ray.tangent.delta import Delta
from taft_ray.tangent.kernel import JacobianRows, jacobian_rows, pass_size
from taft_ray.tangent.model import TangentModel, seeded_normal
from taft_ray.tangent.prepared import Pictures, batches
from taft_ray.tangent.trained import Entry

MOST = 4096  # joined inputs
_PASS = 64  # pictures whose derivatives are in memory, on a CPU
_CUT = 1e-3  # of M's largest singular value: directions of the outputs that a layer cannot move

INPUTS, OUTPUTS, SAMPLES, SLOPE = "inputs", "outputs", "samples", "slope/"


class JointLayer(NamedTuple):
    """Head ``head`` of ``heads`` of rows ``start:stop`` of a weight, with ``inputs`` inputs (the bias's 1 among them), of which
    ``kept`` projections are in a."""

    weight: str
    bias: str | None
    start: int
    stop: int
    heads: int
    head: int
    inputs: int
    kept: int

    def __str__(self) -> str:
        numbers = ":".join(str(number) for number in self[2:])
        return f"{self.weight}|{self.bias or ''}|{numbers}"

    @classmethod
    def parse(cls, text: str) -> JointLayer:
        weight, bias, numbers = text.split("|")
        return cls(weight, bias or None, *(int(number) for number in numbers.split(":")))

    @property
    def entry(self) -> Entry:
        return Entry(self.weight, self.bias, self.start, self.stop, self.heads, transposed=False)

    def projection(self) -> Tensor | None:
        """(inputs, kept) with orthonormal columns, from the layer's name alone; None where all inputs are kept."""
        return None if self.kept == self.inputs else _orthonormal(self.inputs, self.kept, str(self))


@lru_cache(maxsize=64)  # a network's layers; a factorisation takes longer than a pass of pictures
def _orthonormal(rows: int, columns: int, name: str) -> Tensor:
    return torch.linalg.qr(seeded_normal(torch.Size((rows, columns)), std=1.0, seed=0, name=name).double())[0]


def joint_statistics(tm: TangentModel, pictures: Pictures, delta: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A shard's part in the joint composition, float64 on the CPU; ``delta`` is what was fitted to these pictures.

    "inputs" the upper triangle of (S, S), packed, "outputs" (K, S), "slope/<layer>" (K, out) for each layer, "samples" (1,).
    Raises UnsupportedModel where a trained layer sees more tokens than the class token's (`jacobian_rows`).
    """
    total: dict[str, Tensor] = {}
    for _, batch in batches(pictures, max(_PASS, pass_size(tm))):
        for name, value in _of_rows(jacobian_rows(tm, [batch])[0], delta).items():
            total[name] = total[name] + value if name in total else value
    return {name: value.cpu() for name, value in total.items()}


def check_joint(tm: TangentModel, tokens: Tensor) -> None:
    """UnsupportedModel where shards of this linearisation cannot be composed jointly. tokens: of any one picture, (1, T, D)."""
    try:
        jacobian_rows(tm, [tm.prepare(tokens)])
    except UnsupportedModel as error:
        raise UnsupportedModel(
            f"compose='joint' is for the last block behind a class token ({error}); use --compose gram, or --last-blocks 1"
        ) from error


def _of_rows(rows: JacobianRows, delta: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The statistics of a pass. A layer that sees several tokens enters by the sum of its inputs and its mean derivative."""
    found = []
    for entry, inputs, outputs in rows.factors:
        if entry.weight is None or entry.transposed:
            continue
        for head in range(entry.heads):
            a, g = inputs[:, :, head].double(), outputs[:, :, :, head].double()  # (n, R, in), (n, K, R, out)
            if entry.bias is not None:
                a = torch.cat([a, a.new_ones(*a.shape[:2], 1)], dim=2)
            found.append((entry, head, a, g))
    kept = _kept([a.shape[2] for _, _, a, _ in found])
    joined: dict[str, Tensor] = {}
    slopes: dict[str, Tensor] = {}
    y = torch.zeros(rows.shape, dtype=torch.float64, device=rows.device)
    for entry, head, a, g in found:
        layer = JointLayer(entry.weight, entry.bias, entry.start, entry.stop, entry.heads, head, a.shape[2], min(kept, a.shape[2]))  # fmt: skip
        y += torch.einsum("bkro,bro->bk", g, a @ _matrix(delta, layer).to(a).mT)
        projection = layer.projection()
        value = a.sum(1)
        joined[str(layer)] = value if projection is None else value @ projection.to(a)
        slopes[SLOPE + str(layer)] = g.sum(0).mean(1)
    a = torch.cat([joined[key] for key in sorted(joined)], dim=1)
    return {
        INPUTS: pack(a.T @ a),
        OUTPUTS: y.T @ a,
        SAMPLES: torch.tensor([float(len(a))], dtype=torch.float64, device=a.device),
        **slopes,
    }


def _kept(widths: list[int]) -> int:
    """The most inputs a layer may keep so that all are `MOST` together."""
    kept = max(widths, default=0)
    while kept > 1 and sum(min(kept, width) for width in widths) > MOST:
        kept -= 1
    return kept


def _matrix(tensors: Mapping[str, Tensor], layer: JointLayer) -> Tensor:
    """[ΔW, Δb] of the layer, (out, inputs)."""
    entry = layer.entry
    matrix, shift = entry.matrices(tensors), entry.shifts(tensors)
    assert matrix is not None  # it has a weight
    return matrix[layer.head] if shift is None else torch.cat([matrix[layer.head], shift[layer.head, :, None]], dim=1)


def solve_joint(statistics: Mapping[str, Tensor], start: Mapping[str, Tensor], penalty: float) -> Delta:
    """The composed model of summed statistics, float64; what they say nothing of is ``start``'s, the mean. The formula is above.

    Raises DeltaMismatch for statistics of another linearisation, or of no pictures at all.
    """
    keys = sorted(name for name in statistics if name.startswith(SLOPE))
    layers = [JointLayer.parse(key[len(SLOPE) :]) for key in keys]
    absent = [name for layer in layers for name in (layer.weight, layer.bias) if name and name not in start]
    size = sum(layer.kept for layer in layers)
    if absent or statistics[OUTPUTS].shape[1] != size:
        raise DeltaMismatch(f"joint statistics of another linearisation: {absent[:4] or f'{size} inputs'} do not fit")
    samples, classes = float(statistics[SAMPLES]), len(statistics[OUTPUTS])
    means = [statistics[key] / samples for key in keys]
    scale = torch.cat(
        [
            mean.new_full((layer.kept,), float(mean.norm()) / classes**0.5)
            for mean, layer in zip(means, layers, strict=True)
        ]
    )
    lower = lower_triangle(statistics[INPUTS], size).mul_(scale[:, None]).mul_(scale)
    lower.diagonal().add_(penalty * samples * classes)
    failed = torch.zeros((), dtype=torch.int32, device=lower.device)
    torch.linalg.cholesky_ex(lower, out=(lower, failed))
    if failed:
        raise DeltaMismatch("the joint statistics are not those of any inputs; fit the shards again")
    answer = torch.cholesky_solve((statistics[OUTPUTS] * scale).mT, lower).mT * scale  # (K, S), s·C
    composed = Delta({name: value.clone() for name, value in start.items()})
    for layer, mean, part in zip(layers, means, answer.split([layer.kept for layer in layers], dim=1), strict=True):
        projection = layer.projection()
        wanted = torch.linalg.pinv(mean, rtol=_CUT) @ (part if projection is None else part @ projection.mT)
        matrices, shifts = layer.entry.matrices(composed), layer.entry.shifts(composed)  # views of what is composed
        assert matrices is not None
        if shifts is not None:
            shifts[layer.head] = wanted[:, -1]
            wanted = wanted[:, :-1]
        matrices[layer.head] = wanted
    return composed
