"""Fine-tuned shards merged layer by layer: RegMean (Jin et al., ICLR 2023) and RegMean++ (Nguyen et al., 2025, arXiv 2508.03121).

    W = (Σ Ĝᵢ)⁻¹ Σ Ĝᵢ Wᵢ        Ĝᵢ = α Gᵢ + (1 − α) diag Gᵢ,  Gᵢ = Σ a·aᵀ over the inputs of the layer for shard i's pictures

RegMean takes the inputs from shard i's own network. RegMean++ takes them from the merged one: layers are merged first to last, and
each sees what the merged layers before it give. The paper does so per transformer block. One block is trained here, whose entrance
is frozen and alike for all, so that only the head would differ. This goes on per linear layer.

Norms and keys are the mean of the shards', as other parameters are in the papers. A trained bias belongs to its layer, as in this
package's Gram composition: its input is 1.

Legend: n pictures, N shards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from taft_ray.systems.nonlinear import NonLinear
from taft_ray.tangent import Delta
from taft_ray.tangent.gram import GramLayer, gram_matrices
from taft_ray.tangent.rule import LinearInput

ALPHA = 0.95  # the published configuration for vision transformers
_CHUNK = 256  # pictures a pass
_FLOOR = 1e-6  # of the mean diagonal: inputs that are zero on every picture keep the sum solvable


def regmean(
    model: NonLinear, deltas: Sequence[Delta], tokens: Sequence[Tensor], *, refreshed: bool, alpha: float = ALPHA
) -> Delta:
    """The merged Δw. tokens: of each shard's pictures, (n, T, D). refreshed: RegMean++.

    Guarantees: a function of the shards and of their order, without chance.
    """
    merged = Delta({name: torch.stack([delta[name] for delta in deltas]).mean(0) for name in deltas[0]})
    layers = [str(_layer(seen)) for seen in model.tm.layer_inputs(tokens[0][:1], merged)]
    for wanted in [[layer] for layer in layers] if refreshed else [layers]:
        grams: dict[str, Tensor] = {}
        crosses: dict[str, Tensor] = {}
        for delta, shard in zip(deltas, tokens, strict=True):
            for layer, matrix in _grams(model, shard, merged if refreshed else delta, wanted).items():
                matrix = alpha * matrix + (1 - alpha) * torch.diag(matrix.diagonal())
                cross = _rows(delta, GramLayer.parse(layer)).double() @ matrix
                grams[layer] = grams[layer] + matrix if layer in grams else matrix
                crosses[layer] = crosses[layer] + cross if layer in crosses else cross
        for layer in wanted:
            _put(merged, GramLayer.parse(layer), _solved(grams[layer], crosses[layer]))
    return merged


def _layer(seen: LinearInput) -> GramLayer:
    return GramLayer(seen.weight, seen.bias, seen.start, seen.stop)


def _grams(model: NonLinear, tokens: Tensor, delta: Mapping[str, Tensor], wanted: Sequence[str]) -> dict[str, Tensor]:
    """Σ a·aᵀ, float64, of the wanted layers of the network at w + Δ."""
    total: dict[str, Tensor] = {}
    for batch in tokens.split(_CHUNK):
        chosen = [seen for seen in model.tm.layer_inputs(batch, delta) if str(_layer(seen)) in wanted]
        for layer, matrix in gram_matrices(chosen).items():
            total[layer] = total[layer] + matrix if layer in total else matrix
    return total


def _rows(delta: Mapping[str, Tensor], layer: GramLayer) -> Tensor:
    """[ΔW, Δb] of the layer."""
    rows = delta[layer.weight][layer.start : layer.stop]
    return rows if layer.bias is None else torch.cat([rows, delta[layer.bias][layer.start : layer.stop, None]], dim=1)


def _solved(gram: Tensor, cross: Tensor) -> Tensor:
    """cross · gram⁻¹."""
    gram.diagonal().add_(_FLOOR * float(gram.diagonal().mean()))
    return torch.cholesky_solve(cross.T, torch.linalg.cholesky(gram)).T


def _put(delta: Delta, layer: GramLayer, rows: Tensor) -> None:
    weight = delta[layer.weight]
    weight[layer.start : layer.stop] = rows[:, : weight.shape[1]].to(weight)
    if layer.bias is not None:
        delta[layer.bias][layer.start : layer.stop] = rows[:, -1].to(weight)
