"""Self-attention that every token passes, with positions in the scores: EVA's and BEiT's.

Legend: B batch, T tokens, H heads, E head width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor, nn

from taft_ray.tangent.normalisation import softmax_tangent
from taft_ray.tangent.parts import Stacked
from taft_ray.tangent.position_bias import PositionBias
from taft_ray.tangent.projections import Projections
from taft_ray.tangent.readout import output_of
from taft_ray.tangent.rotation import Rotation
from taft_ray.tangent.rule import LinearInput, Rule, Saved, Saving, plus
from taft_ray.tangent.rules import LayerNorm, rule_for


class PositionedAttention(Rule):
    """[P⊙Ṡ − diag(PṠᵀ)P]V + PV̇ with Ṡ = (Q̇Kᵀ + QK̇ᵀ)/√E + Ḃ  (eqs. 5-8).

    Q and K are normalised and turned by their tokens' places, and B is what a position bias adds. Each of these may be absent.
    ``norm``: the layer norm in front, whose γ and β then go into ΔW.
    """

    def __init__(
        self,
        name: str,
        module: nn.Module,
        *,
        norm: LayerNorm | None = None,
        rotation: Rotation | None = None,
        bias: PositionBias | None = None,
    ) -> None:
        super().__init__(name)
        self.maps, self.rotation, self.bias = Projections(name, module), rotation, bias
        self.scale = float(module.scale)  # type: ignore[arg-type]  # timm's own
        self.qkv = Stacked(self.key("qkv"), self.maps.parts, norm)
        self.q_norm, self.k_norm = (
            rule_for(self.key(part), getattr(module, part, None) or nn.Identity()) for part in ("q_norm", "k_norm")
        )
        self.tail = output_of(name, module)

    def split(self, flat: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, T, Σ H·E) -> queries (B, H, T, E), and keys and values of as many heads as there are."""
        q, k, v = flat.split([part.size for part in self.maps.parts], -1)
        return self._heads(q), self._heads(k), self._heads(v)

    def _heads(self, flat: Tensor) -> Tensor:
        return self.maps.split(flat).transpose(1, 2)

    def _placed(self, heads: Tensor) -> Tensor:
        """Turned, and contiguous once: every product would do it for itself."""
        return (heads if self.rotation is None else self.rotation.turn(heads)).contiguous()

    def _placed_keys(self, heads: Tensor) -> Tensor:
        """The same of keys, of which there are then as many heads as queries have."""
        return self.maps.repeated(self._placed(heads), 1)

    def primal(self, x: Tensor, saved: Saving) -> Tensor:
        q, k, v = self.split(self.qkv.primal(x, saved))
        q = self._placed(self.q_norm.primal(q, saved) * self.scale)
        k = self._placed_keys(self.k_norm.primal(k, saved))
        v = self.maps.repeated(v, 1).contiguous()
        scores = q @ k.transpose(-2, -1)
        p = (scores if self.bias is None else scores + self.bias.scores()).softmax(-1)
        for part, value in (("q", q), ("k", k), ("v", v), ("p", p)):
            saved[self.key(part)] = value
        return self.tail.primal((p @ v).transpose(1, 2).flatten(2), saved)

    def tangent(self, x_dot: Tensor | None, saved: Saved, delta: Mapping[str, Tensor]) -> Tensor | None:
        qkv_dot = self.qkv.tangent(x_dot, saved, delta)
        q, k, v, p = (saved[self.key(part)] for part in "qkvp")
        q_in, k_in, v_dot = (None, None, None) if qkv_dot is None else self.split(qkv_dot)
        q_dot = self.q_norm.tangent(q_in, saved, delta)
        k_dot = self.k_norm.tangent(k_in, saved, delta)
        s_dot = None if self.bias is None else self.bias.tangent(delta, p)
        if q_dot is not None:
            s_dot = plus(self._placed(q_dot * self.scale) @ k.transpose(-2, -1), s_dot)
        if k_dot is not None:
            s_dot = plus(q @ self._placed_keys(k_dot).transpose(-2, -1), s_dot)
        out = None if s_dot is None else softmax_tangent(s_dot.expand_as(p), p) @ v
        if v_dot is not None:
            out = plus(out, p @ self.maps.repeated(v_dot, 1))
        return self.tail.tangent(None if out is None else out.transpose(1, 2).flatten(2), saved, delta)

    def linear_inputs(self, saved: Saved, trained: frozenset[str]) -> Iterator[LinearInput]:
        yield from self.qkv.linear_inputs(saved, trained)
        yield from self.tail.linear_inputs(saved, trained)
