"""The exact class-token short cut: attention in a last block of which only some rows are read out.

Legend: B batch, T tokens, D width, H heads, E head width, R rows that are read out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from taft_ray.tangent.covariance import covariance_product
from taft_ray.tangent.normalisation import softmax_tangent
from taft_ray.tangent.position_bias import PositionBias
from taft_ray.tangent.projections import Projections
from taft_ray.tangent.rule import LinearInput, Rule, Saved, Saving, plus, where_it_lies
from taft_ray.tangent.rules import LayerNorm, Sequence, rule_for
from taft_ray.tangent.trained import Probes, trained_vector


def folds(weight: Tensor) -> bool:
    """Whether γ, β, Δγ and Δβ go into the weights: on a GPU, where passes over activations are dear and batches large."""
    return weight.is_cuda


class ReadoutAttention(Rule):
    """norm1 and attention of the last block for the R rows that are read out: keys and values are never formed.

    The input may have no tangent (the block is the first that is trained). It may have one of its first U = R rows (a linearised
    class token in front of it). It may have one of all U = T rows (blocks before it are trained). With X̂ the normalised tokens and
    u what the input's tangent becomes behind norm1, per head and read-out row:

        q̇ = ΔW_q h₀ + Δb_q + W_q ḣ₀,   h₀ = γX̂₀ + β,   ḣ₀ = ΔγX̂₀ + Δβ + u₀
        z = γ(ΔW_kᵀ q + W_kᵀ q̇) + Δγ r,   r = W_kᵀ q
        ṡ_t = (z·X̂_t + r·u_t) √(1/E),   a_t = p_t (ṡ_t − Σ p ṡ)
        ȯ = W_v (γ Σ a_t X̂_t + Δγ x̄ + Δβ + Σ p_t u_t) + ΔW_v (γx̄ + β) + Δb_v,   x̄ = Σ p_t X̂_t

    Terms of ṡ that are constant in t drop out of a. Token work: 2·R·H·T·D multiply-adds a picture, 4 with a tangent of all rows,
    instead of about 12·T·D².

    On a GPU every pass over arrays of z's size, R·H·D values a picture, costs a good part of what X̂ costs. Where u = 0, γ, β, Δγ and Δβ
    therefore go into the weights, and z and ȯ are sums of two products each (`_folded`):

        z = q̇·(W_k γ) + q·(ΔW_k γ + W_k Δγ),   m = Cov_p[X̂]·z √(1/E)
        ȯ = (W_v γ) m + (W_v Δγ + ΔW_v γ) x̄ + W_v Δβ + ΔW_v β + Δb_v
    """

    def __init__(
        self, name: str, norm: LayerNorm, module: nn.Module, rows: int, bias: PositionBias | None = None
    ) -> None:
        super().__init__(name)
        self.norm, self.rows, self.bias = norm, rows, bias
        self.maps = Projections(name, module)
        self.scale = float(module.scale)  # type: ignore[arg-type]  # timm's own
        self.tail = output_of(name, module)

    def primal(self, x: Tensor, saved: Saving) -> Tensor:
        n, s = self.norm.normalise(x)
        gamma = self.norm.gamma
        w_q, w_k, w_v = self.maps.base_weights()
        b_q, _, b_v = self.maps.base_biases()
        h0 = self.norm.affine(n[:, : self.rows])
        q = torch.einsum("brd,hed->brhe", h0, w_q)
        q = q if b_q is None else q + b_q
        r = torch.einsum("brhe,hed->brhd", q, w_k)
        scores = torch.einsum("brhd,btd->brht", r if gamma is None else r * gamma, n) * self.scale
        if self.bias is not None:
            scores = scores + self.bias.scores(self.rows).transpose(0, 1)
        p = scores.softmax(-1)
        x_bar = torch.einsum("brht,btd->brhd", p, n)
        h_bar = self.norm.affine(x_bar)
        o = torch.einsum("brhd,hed->brhe", h_bar, w_v)
        o = o if b_v is None else o + b_v
        for part, value in (("n", n), ("s", s), ("h0", h0), ("q", q), ("r", r), ("p", p), ("x_bar", x_bar)):
            saved[self.key(part)] = value
        return self.tail.primal(o.flatten(2), saved)

    def tangent(self, x_dot: Tensor | None, saved: Saved, delta: Mapping[str, Tensor]) -> Tensor | None:
        alone = x_dot is None and not isinstance(delta, Probes)
        fold = alone and folds(self.maps.query.base_weight())
        o_dot = self._folded(saved, delta) if fold else self._spread(x_dot, saved, delta)
        return self.tail.tangent(None if o_dot is None else o_dot.flatten(2), saved, delta)

    def _spread(self, x_dot: Tensor | None, saved: Saved, delta: Mapping[str, Tensor]) -> Tensor | None:
        """ȯ, (B, R, H, E)."""
        n, s, h0, q, r, p, x_bar = (saved[self.key(part)] for part in ("n", "s", "h0", "q", "r", "p", "x_bar"))
        gamma = self.norm.gamma
        w_q, w_k, w_v = self.maps.base_weights()
        d_query, d_key, d_value = self.trained(delta, h0, q, self.norm.affine(x_bar))
        u = None
        if x_dot is not None:
            known = x_dot.shape[1]  # U
            u = self.norm.input_tangent(x_dot, n[:, :known], s[:, :known])

        d_gamma, d_beta = (trained_vector(delta, self.norm.key(part), h0) for part in ("weight", "bias"))
        h0_dot = None if d_gamma is None else n[:, : self.rows] * d_gamma
        if d_beta is not None:
            h0_dot = plus(h0_dot, d_beta.expand_as(h0))
        if u is not None:
            h0_dot = plus(h0_dot, u[:, : self.rows])
        q_dot = plus(None if h0_dot is None else torch.einsum("brd,hed->brhe", h0_dot, w_q), d_query)

        d_gamma, d_beta = (trained_vector(delta, self.norm.key(part), r) for part in ("weight", "bias"))
        z = plus(None if q_dot is None else torch.einsum("brhe,hed->brhd", q_dot, w_k), d_key)
        if z is not None and gamma is not None:
            z = z * gamma
        if d_gamma is not None:
            z = plus(z, r * d_gamma)

        s_dot = self._bias_tangent(delta, p)
        if z is not None:
            from_keys = torch.bmm(z.flatten(1, 2), n.transpose(1, 2)).view_as(p)
            if u is not None:
                from_input = torch.bmm(r.flatten(1, 2), u.transpose(1, 2)).view(*p.shape[:3], known)
                from_keys = from_keys + F.pad(from_input, (0, n.shape[1] - known))
            s_dot = plus(from_keys * self.scale, s_dot)
        v_in = None
        if s_dot is not None:
            a = softmax_tangent(s_dot, p)
            v_in = torch.bmm(a.flatten(1, 2), n).view_as(x_bar)
            v_in = v_in if gamma is None else v_in * gamma
        if d_gamma is not None:
            v_in = plus(v_in, x_bar * d_gamma)
        if d_beta is not None:
            v_in = plus(v_in, d_beta.expand_as(x_bar))
        if u is not None:
            v_in = plus(v_in, torch.bmm(p[..., :known].flatten(1, 2), u).view_as(x_bar))
        o_dot = None if v_in is None else torch.einsum("brhd,hed->brhe", v_in, w_v)
        return plus(o_dot, d_value)

    def _bias_tangent(self, delta: Mapping[str, Tensor], p: Tensor) -> Tensor | None:
        """(B, R, H, T), the shape of p."""
        moved = None if self.bias is None else self.bias.tangent(delta, p, self.rows)
        return None if moved is None else moved.transpose(1, 2).expand_as(p)

    def _folded(self, saved: Saved, delta: Mapping[str, Tensor]) -> Tensor | None:
        """ȯ, (B, R, H, E), of a frozen input. Matrices a head: rows (H, B·R, …), weights (H, E, D)."""
        rows = self.rows
        gamma, beta = self.norm.gamma, self.norm.beta
        d_gamma, d_beta = (delta.get(self.norm.key(part)) for part in ("weight", "bias"))
        w_q, w_k, w_v = self.maps.base_weights()
        dw_q, dw_k, dw_v = self.maps.moved_weights(delta)
        db_q, _, db_v = self.maps.moved_biases(delta)

        def headwise(values: Tensor) -> Tensor:
            return values.flatten(0, 1).transpose(0, 1)

        h0_dot = d_beta
        if d_gamma is not None:
            n, index = where_it_lies(saved, self.key("n"))
            first = n[:, :rows] if index is None else n[:, :rows].index_select(0, index)
            h0_dot = first * d_gamma if d_beta is None else torch.addcmul(d_beta, first, d_gamma)
        q = saved[self.key("q")]
        q_dot = None if dw_q is None else torch.einsum("brd,hed->brhe", saved[self.key("h0")], dw_q)
        q_dot = plus(q_dot, db_q)
        if h0_dot is not None:
            q_dot = plus(q_dot, torch.einsum("...d,hed->...he", h0_dot, w_q))

        parts = []
        if q_dot is not None:
            parts.append((q_dot.expand_as(q), w_k if gamma is None else w_k * gamma))
        moved_k = _product_rule(w_k, dw_k, gamma, d_gamma)
        if moved_k is not None:
            parts.append((q, moved_k))
        v_in = None
        if parts:
            rows_in, weights = zip(*parts, strict=True)
            z = torch.bmm(headwise(torch.cat(rows_in, -1)), torch.cat(weights, 1))
            n, index = where_it_lies(saved, self.key("n"))
            p, x_bar = (where_it_lies(saved, self.key(part))[0] for part in ("p", "x_bar"))
            v_in = covariance_product(z, n, p, x_bar, index, self.scale)
        if self.bias is not None:
            p, n = saved[self.key("p")], saved[self.key("n")]
            moved = self._bias_tangent(delta, p)
            if moved is not None:
                v_in = plus(
                    v_in, headwise(torch.bmm(softmax_tangent(moved, p).flatten(1, 2), n).unflatten(1, p.shape[1:3]))
                )
        o_dot = None if v_in is None else torch.bmm(v_in, (w_v if gamma is None else w_v * gamma).mT)
        moved_v = _product_rule(w_v, dw_v, gamma, d_gamma)
        if moved_v is not None:
            x_bar = headwise(saved[self.key("x_bar")])
            o_dot = torch.bmm(x_bar, moved_v.mT) if o_dot is None else torch.baddbmm(o_dot, x_bar, moved_v.mT)
        o_dot = None if o_dot is None else o_dot.transpose(0, 1).unflatten(0, q.shape[:2])
        constant = plus(None if d_beta is None else w_v @ d_beta, None if dw_v is None or beta is None else dw_v @ beta)
        constant = plus(constant, db_v)
        return o_dot if constant is None else plus(o_dot, constant.expand_as(q))

    def trained(
        self, delta: Mapping[str, Tensor], h0: Tensor, q: Tensor, h_bar: Tensor
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """ΔW_q h₀ + Δb_q (B, R, H, E), ΔW_kᵀ q (B, R, H, D), ΔW_v h̄ + Δb_v (B, R, H, E): each None when it is not trained."""
        if isinstance(delta, Probes):
            q_part, k_part, v_part = self.maps.parts
            query, key = q_part.sites(delta, h0[:, :, None]), None
            if k_part.weight_name in delta:
                key = delta.site(q, k_part.weight_name, None, k_part.start, k_part.stop, transposed=True)
            value = v_part.sites(delta, h_bar)
            return None if query is None else self.maps.split(query[:, :, 0]), key, value
        dw_q, dw_k, dw_v = self.maps.moved_weights(delta)
        db_q, _, db_v = self.maps.moved_biases(delta)
        query = None if dw_q is None else torch.einsum("brd,hed->brhe", h0, dw_q)
        key = None if dw_k is None else torch.einsum("brhe,hed->brhd", q, dw_k)
        value = None if dw_v is None else torch.einsum("brhd,hed->brhe", h_bar, dw_v)
        query = plus(query, None if db_q is None else db_q.expand_as(q))
        value = plus(value, None if db_v is None else db_v.expand_as(q))
        return query, key, value

    def linear_inputs(self, saved: Saved, trained: frozenset[str]) -> Iterator[LinearInput]:
        """The query rows saw h₀ and each head's value rows saw γx̄ + β; keys have no single input (plain mean)."""
        yield from query_and_value_inputs(
            self.maps, saved[self.key("h0")], self.norm.affine(saved[self.key("x_bar")]), trained
        )
        yield from self.tail.linear_inputs(saved, trained)


def output_of(name: str, module: nn.Module) -> Sequence:
    """The rules behind an attention's heads: the norm within, where there is one, and the output's layer."""
    norm = getattr(module, "norm", None)
    inner = [] if norm is None else [rule_for(f"{name}.norm", norm)]
    return Sequence(name, [*inner, rule_for(f"{name}.proj", module.get_submodule("proj"))])


def query_and_value_inputs(
    maps: Projections, h0: Tensor, h_bar: Tensor, trained: frozenset[str]
) -> Iterator[LinearInput]:
    """The inputs of rows that are read out: h₀ (B, R, D) for queries, h̄ (B, R, H, D) for each head's values."""
    yield from maps.query.linear_input(h0, trained)
    head = maps.head_dim
    for index in range(maps.kv_width // head):
        seen = h_bar[:, :, index * maps.groups : (index + 1) * maps.groups].flatten(1, 2)
        yield from maps.value.linear_input(seen, trained, (index * head, (index + 1) * head))


def _product_rule(w: Tensor, dw: Tensor | None, gamma: Tensor | None, d_gamma: Tensor | None) -> Tensor | None:
    """The tangent of w·diag(γ); None when it is zero."""
    scaled = dw if dw is None or gamma is None else dw * gamma
    return plus(scaled, None if d_gamma is None else w * d_gamma)
